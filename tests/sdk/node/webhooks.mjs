// Every call of webhooks that the official npm SDK has: `node webhooks.mjs BASE_URL API_KEY`. Prints the calls it
// made, as JSON, and exits 0 when all of them did what they should.
import assert from "node:assert/strict";
import { calls, connect, only, refused } from "./checks.mjs";

const [baseUrl, apiKey] = process.argv.slice(2);
const client = connect(baseUrl, apiKey);
const NOTHING = "00000000-0000-0000-0000-000000000000";
const url = "https://hooks.test/mail";
const run = Math.random().toString(16).slice(2, 10);

const pod = await client.pods.create({ name: "Acme" });
const inbox = await client.pods.inboxes.create(pod.podId, { username: `ada-${run}` });
const other = await client.inboxes.create({ username: `bob-${run}` });

for (const [webhooks, at, of] of [
    [client.webhooks, [], [undefined, undefined]],
    [client.pods.webhooks, [pod.podId], [pod.podId, undefined]],
    [client.inboxes.webhooks, [inbox.inboxId], [pod.podId, inbox.inboxId]],
]) {
    const wanted = { url, eventTypes: ["domain.verified"], clientId: `hook-${run}`, headers: { "X-Token": "t" } };
    const made = await webhooks.create(...at, wanted);
    assert.deepEqual([made.url, made.eventTypes, made.enabled], [url, ["domain.verified"], true]);
    // Fields that came after this version keep the names of the wire.
    assert.deepEqual([made.pod_id, made.inbox_id], of);
    assert.match(made.secret, /^whsec_[A-Za-z0-9+/]+=*$/);
    assert.ok(made.createdAt instanceof Date);
    assert.deepEqual(await webhooks.create(...at, wanted), made);
    assert.deepEqual(await webhooks.get(...at, made.webhookId), made);
    const second = await webhooks.create(...at, { url, eventTypes: ["domain.verified"] });
    const newest = await webhooks.list(...at, { limit: 1 });
    assert.equal(only(newest.webhooks).webhookId, second.webhookId);
    const rest = await webhooks.list(...at, { limit: 50, pageToken: newest.nextPageToken });
    assert.ok(rest.webhooks.some((each) => each.webhookId === made.webhookId));
    const changed = await webhooks.update(...at, made.webhookId, { eventTypes: ["message.bounced"] });
    assert.deepEqual(changed.eventTypes, ["message.bounced"]);
    // This version leaves out `enabled`: better told than taken for done.
    await refused(webhooks.update(...at, made.webhookId, { enabled: false }), 400, "ValidationError");
    assert.deepEqual((await webhooks.getHeaders(...at, made.webhookId)).headerNames, ["X-Token"]);
    await webhooks.updateHeaders(...at, made.webhookId, { headers: { "X-Team": "t" }, removeHeaders: ["x-token"] });
    assert.deepEqual((await webhooks.getHeaders(...at, made.webhookId)).headerNames, ["X-Team"]);
    await refused(webhooks.updateHeaders(...at, made.webhookId, {}), 400, "ValidationError");
    await refused(webhooks.create(...at, { url: "nowhere", eventTypes: ["message.sent"] }), 400, "ValidationError");
    await refused(webhooks.create(...at, { url, eventTypes: [] }), 400, "ValidationError");
    await webhooks.delete(...at, made.webhookId);
    await webhooks.delete(...at, second.webhookId);
    await refused(webhooks.get(...at, made.webhookId), 404, "NotFoundError");
    await refused(webhooks.update(...at, NOTHING, { eventTypes: ["message.sent"] }), 404, "NotFoundError");
}

// Filters, in the organisation and in a pod
const held = await client.webhooks.create({ url, eventTypes: ["domain.verified"], inboxIds: [inbox.inboxId] });
const more = await client.webhooks.update(held.webhookId, { addInboxIds: [other.inboxId], addPodIds: [pod.podId] });
assert.deepEqual([more.inboxIds, more.podIds], [[inbox.inboxId, other.inboxId], [pod.podId]]);
const less = await client.webhooks.update(held.webhookId, { removeInboxIds: [inbox.inboxId], removePodIds: [pod.podId] });
assert.deepEqual([less.inboxIds, less.podIds], [[other.inboxId], undefined]);
await refused(client.webhooks.update(held.webhookId, { addPodIds: [NOTHING] }), 404, "NotFoundError");
const beyond = { url, eventTypes: ["domain.verified"], inboxIds: [other.inboxId] };
await refused(client.pods.webhooks.create(pod.podId, beyond), 404, "NotFoundError");

process.stdout.write(JSON.stringify(calls));
