// Every call of domains that the official npm SDK has: `node domains.mjs BASE_URL API_KEY`. Prints the calls it
// made, as JSON, and exits 0 when all of them did what they should.
import assert from "node:assert/strict";
import { calls, connect, only, refused } from "./checks.mjs";

const client = connect(...process.argv.slice(2));
const NOTHING = "00000000-0000-0000-0000-000000000000";
const run = Math.random().toString(16).slice(2, 10);
const pod = await client.pods.create({ name: "Acme" });

for (const [domains, at] of [
    [client.domains, []],
    [client.pods.domains, [pod.podId]],
]) {
    const name = `acme-${at.length}-${run}.test`;
    const made = await domains.create(...at, { domain: name, inboundEnabled: false });
    assert.deepEqual([made.domain, made.status, made.podId], [name, "PENDING", at[0]]);
    assert.ok(made.records.every((each) => each.status === "MISSING" && each.name.endsWith(name)));
    assert.ok(made.createdAt instanceof Date);
    assert.deepEqual(await domains.get(...at, name), made);
    assert.deepEqual(await domains.get(...at, made.domainId), made);
    assert.equal(only((await domains.list(...at, { limit: 1 })).domains).domainId, made.domainId);
    const changed = await domains.update(...at, name, { subdomainsEnabled: true });
    assert.equal(changed.subdomainsEnabled, true);
    const zone = await domains.getZoneFile(...at, name);
    assert.match(Buffer.from(await zone.arrayBuffer()).toString(), /^\$ORIGIN acme-/);
    await domains.verify(...at, name);
    await refused(domains.create(...at, { domain: "acme" }), 400, "ValidationError");
    await refused(domains.create(...at, { domain: name, inboundEnabled: false }), 403, "IsTakenError");
    await refused(domains.get(...at, NOTHING), 404, "NotFoundError");
    if (!at.length) assert.equal((await domains.getSetupLink(name)).supported, false);
    await domains.delete(...at, name);
    await refused(domains.delete(...at, name), 404, "NotFoundError");
}
await client.pods.delete(pod.podId);

process.stdout.write(JSON.stringify(calls));
