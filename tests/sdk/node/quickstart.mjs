// The official npm SDK's quick start: `node quickstart.mjs BASE_URL API_KEY`. Exits 0 when all of it holds.
import assert from "node:assert/strict";
import { connect, refused, until } from "./checks.mjs";

const client = connect(...process.argv.slice(2));

const me = await client.auth.me();
assert.equal(me.scopeType, "organization");

const alice = await client.inboxes.create({ clientId: "node-alice", displayName: "Alice" });
const again = await client.inboxes.create({ clientId: "node-alice" });
assert.equal(again.inboxId, alice.inboxId);
assert.ok(alice.createdAt instanceof Date);
const bob = await client.inboxes.create();

const sent = await client.inboxes.messages.send(alice.inboxId, {
    to: [bob.email],
    subject: "Hello",
    text: "Hi Bob",
    labels: ["greeting"],
});

const page = await until(
    () => client.inboxes.messages.list(bob.inboxId, { labels: ["unread"] }),
    (seen) => seen.count === 1,
);
const [item] = page.messages;
assert.equal(item.messageId, sent.messageId);
assert.equal(item.from, `Alice <${alice.email}>`);
assert.ok(item.timestamp instanceof Date);

const message = await client.inboxes.messages.get(bob.inboxId, item.messageId);
assert.equal(message.text.trim(), "Hi Bob");

const updated = await client.inboxes.messages.update(bob.inboxId, item.messageId, {
    removeLabels: ["unread"],
});
assert.deepEqual(updated.labels, ["received"]);
const unread = await client.inboxes.messages.list(bob.inboxId, { labels: ["unread"] });
assert.equal(unread.count, 0);

const threads = await client.inboxes.threads.list(bob.inboxId);
assert.equal(threads.count, 1);
const thread = await client.inboxes.threads.get(bob.inboxId, threads.threads[0].threadId);
assert.equal(thread.messages[0].messageId, item.messageId);
assert.equal((await client.threads.list()).count, 2);

const key = await client.apiKeys.create({ name: "node" });
assert.ok(key.apiKey.startsWith("inai_"));
const keys = await client.apiKeys.list();
assert.deepEqual(new Set(keys.apiKeys.map((each) => each.name)), new Set(["sdk", "node"]));
await client.apiKeys.delete(key.apiKeyId);

await refused(client.inboxes.get("nobody@agents.test"), 404, "NotFoundError");
await refused(client.inboxes.create({ username: "Not Allowed" }), 400, "ValidationError");
await refused(
    client.inboxes.messages.send(alice.inboxId, { to: ["nobody@agents.test"], text: "Hi" }),
    403,
    "MessageRejectedError",
);

await client.inboxes.delete(bob.inboxId);
await refused(client.inboxes.get(bob.inboxId), 404, "NotFoundError");
