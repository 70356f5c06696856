// Every call of pods, API keys, lists and metrics that the official npm SDK has: `node tenants.mjs BASE_URL
// API_KEY`. Prints the calls it made, as JSON, and exits 0 when all of them did what they should.
import assert from "node:assert/strict";
import { calls, connect, only, refused, until } from "./checks.mjs";

const [baseUrl, apiKey] = process.argv.slice(2);
const client = connect(baseUrl, apiKey);
const NOTHING = "00000000-0000-0000-0000-000000000000";
const run = Math.random().toString(16).slice(2, 10);

// Pods and their inboxes
const pod = await client.pods.create({ name: "Acme", clientId: `acme-${run}` });
assert.equal((await client.pods.create({ clientId: `acme-${run}` })).podId, pod.podId);
assert.equal((await client.pods.get(`acme-${run}`)).name, "Acme");
assert.ok(pod.createdAt instanceof Date);
const empty = await client.pods.create({});
const newest = await client.pods.list({ limit: 1 });
assert.equal(only(newest.pods).podId, empty.podId);
assert.ok((await client.pods.list({ pageToken: newest.nextPageToken })).count >= 2);
await client.pods.delete(empty.podId);
await refused(client.pods.get(empty.podId), 404, "NotFoundError");
const ada = await client.pods.inboxes.create(pod.podId, { username: `ada-${run}`, metadata: { n: 1 } });
const bob = await client.pods.inboxes.create(pod.podId, { username: `bob-${run}` });
assert.equal(ada.podId, pod.podId);
assert.equal((await client.pods.inboxes.list(pod.podId)).count, 2);
assert.equal((await client.pods.inboxes.get(pod.podId, ada.inboxId)).metadata.n, 1);
const renamed = await client.pods.inboxes.update(pod.podId, ada.inboxId, { displayName: "Ada" });
assert.equal(renamed.displayName, "Ada");
await refused(client.pods.inboxes.get(NOTHING, ada.inboxId), 404, "NotFoundError");
await refused(client.pods.delete(pod.podId, { maxRetries: 0 }), 409, "ConflictError");

// The organisation
const organization = await client.organizations.get();
assert.ok(organization.inboxCount >= 2);
assert.ok(organization.createdAt instanceof Date);

// API keys at their three scopes, and how far they reach
const ids = { organization: organization.organizationId, pod: pod.podId, inbox: ada.inboxId };
for (const [scope, keys, at] of [
    ["organization", client.apiKeys, []],
    ["pod", client.pods.apiKeys, [pod.podId]],
    ["inbox", client.inboxes.apiKeys, [ada.inboxId]],
]) {
    const made = await keys.create(...at, { name: scope, permissions: { inboxRead: true } });
    assert.equal(made.permissions.inboxRead, true);
    const narrow = connect(baseUrl, made.apiKey);
    const me = await narrow.auth.me();
    assert.deepEqual([me.scopeType, me.scopeId, me.apiKeyId], [scope, ids[scope], made.apiKeyId]);
    const outside = await client.inboxes.create({ username: `outside-${scope}-${run}` });
    if (scope !== "organization") await refused(narrow.inboxes.get(outside.inboxId), 404, "NotFoundError");
    await refused(narrow.inboxes.threads.list(ada.inboxId), 403, "ForbiddenError");
    assert.equal((await keys.update(...at, made.apiKeyId, { name: "renamed" })).name, "renamed");
    const listed = (await keys.list(...at)).apiKeys.find((each) => each.name === "renamed");
    assert.equal(listed.type, "bearer");
    assert.ok(listed.createdAt instanceof Date && listed.usedAt instanceof Date);
    await keys.delete(...at, made.apiKeyId);
    await refused(keys.update(...at, made.apiKeyId, { name: "x" }), 404, "NotFoundError");
}

// Lists at their three scopes
for (const [lists, at] of [
    [client.lists, []],
    [client.pods.lists, [pod.podId]],
    [client.inboxes.lists, [ada.inboxId]],
]) {
    const made = await lists.create(...at, "send", "block", { entry: bob.email, reason: "No" });
    assert.deepEqual([made.entry, made.entryType, made.listType], [bob.email, "email", "block"]);
    assert.ok(made.createdAt instanceof Date);
    assert.equal((await lists.get(...at, "send", "block", bob.email)).reason, "No");
    assert.equal(only((await lists.list(...at, "send", "block", { limit: 5 })).entries).entry, bob.email);
    const message = { to: bob.email, text: "Hi" };
    await refused(client.inboxes.messages.send(ada.inboxId, message), 403, "MessageRejectedError");
    await lists.delete(...at, "send", "block", bob.email);
    await refused(lists.get(...at, "send", "block", bob.email), 404, "NotFoundError");
    await refused(lists.create(...at, "send", "block", { entry: "no address" }), 400, "ValidationError");
}

// Metrics at their three scopes
await client.inboxes.messages.send(ada.inboxId, { to: bob.email, text: "Hi" });
await until(
    () => client.inboxes.messages.list(bob.inboxId),
    (seen) => seen.count === 1,
);
for (const [metrics, at] of [
    [client.metrics, []],
    [client.pods.metrics, [pod.podId]],
    [client.inboxes.metrics, [ada.inboxId]],
]) {
    const start = new Date(Date.now() - 3_600_000);
    const sent = { eventTypes: ["message.sent", "message.bounced"], start, period: 86_400 };
    const events = await metrics.queryEvents(...at, sent);
    assert.equal(only(events["message.sent"]).count, 1);
    assert.ok(events["message.sent"][0].timestamp instanceof Date);
    assert.deepEqual(events["message.bounced"], []);
    const usage = await metrics.queryUsage(...at, { descending: true, limit: 2 });
    assert.ok(usage.message_count[0].value >= 1);
    assert.equal(usage.message_count[1].value, 0);
    await refused(metrics.queryUsage(...at, { period: 1 }), 400, "ValidationError");
}

await client.pods.inboxes.delete(pod.podId, ada.inboxId);
await client.pods.inboxes.delete(pod.podId, bob.inboxId);
await client.pods.delete(pod.podId);

process.stdout.write(JSON.stringify(calls));
