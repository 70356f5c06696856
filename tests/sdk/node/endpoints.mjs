// Every call of the mail API that the official npm SDK has: `node endpoints.mjs BASE_URL API_KEY`. Prints
// the calls it made, as JSON, and exits 0 when all of them did what they should.
import assert from "node:assert/strict";
import { calls, connect, only, refused, until } from "./checks.mjs";

const client = connect(...process.argv.slice(2));
const { messages, threads, drafts, events } = client.inboxes;
const NOTHING = "00000000-0000-0000-0000-000000000000";
const run = Math.random().toString(16).slice(2, 10);

const alice = await client.inboxes.create({ username: `alice-${run}`, displayName: "Alice" });
const bob = await client.inboxes.create({ username: `bob-${run}`, displayName: "Bob" });
const bytes = Buffer.from("%PDF-1.7\nfigures\n");
const file = { filename: "r.pdf", contentType: "application/pdf", content: bytes.toString("base64") };

async function fetched(link) {
    assert.ok(link.expiresAt instanceof Date);
    const answer = await fetch(link.downloadUrl);
    assert.equal(answer.status, 200);
    return Buffer.from(await answer.arrayBuffer());
}

// Inboxes
assert.equal((await client.inboxes.get(alice.inboxId)).displayName, "Alice");
assert.equal((await client.inboxes.update(alice.inboxId, { metadata: { n: 1 } })).metadata.n, 1);
assert.equal((await client.inboxes.list({ limit: 1 })).count, 1);
const found = await client.inboxes.search({ q: `alice-${run}` });
assert.equal(only(found.inboxes).inboxId, alice.inboxId);
const foundInPod = await client.pods.inboxes.search(alice.podId, { q: `bob-${run}` });
assert.equal(only(foundInPod.inboxes).inboxId, bob.inboxId);
await refused(client.inboxes.search({ q: "a" }), 400, "ValidationError");
const keyed = { headers: { "Idempotency-Key": `i-${run}` } };
const carol = await client.inboxes.create({ username: `carol-${run}` }, keyed);
const again = await client.inboxes.create({ username: `carol-${run}` }, keyed);
assert.deepEqual(again, carol);
await refused(client.inboxes.create({}, keyed), 409, "ConflictError");
await client.inboxes.delete(carol.inboxId);

// A mail from Alice to Bob
const sent = await messages.send(
    alice.inboxId,
    {
        to: bob.email,
        subject: "Quarterly figures",
        text: "The kumquat grew.",
        html: "<p>The kumquat grew.</p>",
        labels: ["report"],
        attachments: [file],
    },
    { idempotencyKey: `k-${run}` },
);
const page = await until(
    () => messages.list(bob.inboxId, { labels: ["unread"], from: ["alice"], limit: 5 }),
    (seen) => seen.count === 1,
);
const item = only(page.messages);
const attachment = only(item.attachments);
const message = await messages.get(bob.inboxId, item.messageId);
assert.equal(message.extractedText.trim(), "The kumquat grew.");
assert.ok(message.createdAt instanceof Date);
const link = await messages.getAttachment(bob.inboxId, item.messageId, attachment.attachmentId);
assert.deepEqual(await fetched(link), bytes);
const raw = await messages.getRaw(bob.inboxId, item.messageId);
assert.equal((await fetched(raw)).length, raw.size);

// Answers
const reply = await messages.reply(bob.inboxId, item.messageId, { text: "Thanks", labels: ["a"] });
assert.equal(reply.threadId, item.threadId);
const toAll = await messages.replyAll(bob.inboxId, item.messageId, { text: "Thanks, all" });
assert.equal((await messages.get(bob.inboxId, toAll.messageId)).to.length, 1);
const forward = await messages.forward(bob.inboxId, item.messageId, { to: [alice.email] });
const forwarded = await messages.get(bob.inboxId, forward.messageId);
assert.equal(forwarded.subject, "Fwd: Quarterly figures");
assert.equal(only(forwarded.attachments).filename, "r.pdf");
await refused(messages.reply(bob.inboxId, "<none@elsewhere.test>", { text: "x" }), 404, "NotFoundError");

// Labels, batches, events
const updated = await messages.update(bob.inboxId, item.messageId, {
    addLabels: ["Lead"],
    removeLabels: "unread",
});
assert.deepEqual(updated.labels, ["lead", "received"]);
const ids = [reply.messageId, item.messageId];
const got = await messages.batchGet(bob.inboxId, { messageIds: ids });
assert.deepEqual(got.messages.map((each) => each.messageId), ids);
const changed = await messages.batchUpdate(bob.inboxId, { messageIds: ids, addLabels: ["lot"] });
assert.ok(changed.updates.every((each) => each.labels.includes("lot")));
const told = await until(
    () => events.list(bob.inboxId, { limit: 50 }),
    (seen) => seen.events.some((each) => each.label === "lot"),
);
assert.ok(told.events.every((each) => each.eventAt instanceof Date));

// Search
const hits = await until(
    () => messages.search(bob.inboxId, { q: "kumquat" }),
    (seen) => seen.messages.some((each) => each.messageId === item.messageId),
);
assert.ok(hits.messages.some((each) => each.highlights.text[0].includes("**kumquat**")));

// Threads at their three scopes
const scopes = [
    [threads, [bob.inboxId]],
    [client.threads, []],
    [client.pods.threads, [bob.podId]],
];
for (const [scope, at] of scopes) {
    const listed = await scope.list(...at, { subject: ["quarterly"], limit: 10 });
    assert.ok(listed.threads.some((each) => each.threadId === item.threadId));
    assert.ok((await scope.search(...at, { q: "kumquat" })).count >= 1);
    const thread = await scope.get(...at, item.threadId);
    assert.equal(thread.messages[0].messageId, item.messageId);
    const file = await scope.getAttachment(...at, item.threadId, attachment.attachmentId);
    assert.deepEqual(await fetched(file), bytes);
    const labelled = await scope.update(...at, item.threadId, { addLabels: ["seen-by-node"] });
    assert.ok(labelled.labels.includes("seen-by-node"));
    await refused(scope.get(...at, NOTHING), 404, "NotFoundError");
}

// Drafts, written in an inbox and read at three scopes
const draft = await drafts.create(alice.inboxId, {
    to: [bob.email],
    subject: "Offer",
    text: "Ten",
    attachments: [file],
    sendAt: new Date(Date.now() + 3_600_000),
});
assert.equal(draft.sendStatus, "scheduled");
assert.ok(draft.sendAt instanceof Date);
for (const [scope, at] of [
    [drafts, [alice.inboxId]],
    [client.drafts, []],
    [client.pods.drafts, [alice.podId]],
]) {
    assert.equal(only((await scope.list(...at, { labels: ["scheduled"] })).drafts).draftId, draft.draftId);
    const whole = await scope.get(...at, draft.draftId);
    assert.equal(whole.subject, "Offer");
    const part = await scope.getAttachment(
        ...at,
        draft.draftId,
        only(whole.attachments).attachmentId,
    );
    assert.deepEqual(await fetched(part), bytes);
}
const better = await drafts.update(alice.inboxId, draft.draftId, { text: "Nine", sendAt: null });
assert.equal(better.sendStatus, undefined);
const left = await drafts.send(alice.inboxId, draft.draftId, {});
assert.equal((await messages.get(alice.inboxId, left.messageId)).text.trim(), "Nine");
await refused(drafts.get(alice.inboxId, draft.draftId), 404, "NotFoundError");
const other = await drafts.create(alice.inboxId, { subject: "Never" });
await drafts.delete(alice.inboxId, other.draftId);

// What only the hosted service has
assert.deepEqual((await client.accounts.list()).accounts, []);
assert.deepEqual((await client.providers.list()).providers, []);
assert.deepEqual((await client.providers.search({ q: "x" })).providers, []);
assert.deepEqual((await client.providers.listAccounts("x")).accounts, []);
await refused(client.accounts.get(NOTHING), 404, "NotFoundError");
await refused(client.providers.get("x"), 404, "NotFoundError");
await refused(client.providers.connect("x"), 403, "ForbiddenError");
await refused(client.inboxes.authorize(alice.inboxId, { authToken: "x" }), 404, "NotFoundError");

// Deleting
await messages.delete(bob.inboxId, reply.messageId);
await refused(messages.get(bob.inboxId, reply.messageId), 404, "NotFoundError");
await threads.delete(bob.inboxId, item.threadId);
await refused(threads.get(bob.inboxId, item.threadId), 404, "NotFoundError");
await client.threads.delete(sent.threadId);
const last = await messages.send(alice.inboxId, { to: bob.email, text: "x" });
await client.pods.threads.delete(alice.podId, last.threadId);
await client.inboxes.delete(bob.inboxId);
await refused(client.inboxes.get(bob.inboxId), 404, "NotFoundError");

// API keys and the caller
assert.equal((await client.auth.me()).scopeType, "organization");
const key = await client.apiKeys.create({ name: "node" });
assert.equal((await client.apiKeys.get(key.apiKeyId)).name, "node");
assert.equal((await client.apiKeys.update(key.apiKeyId, { name: "js" })).name, "js");
assert.ok((await client.apiKeys.list()).apiKeys.every((each) => each.updatedAt instanceof Date));
await client.apiKeys.delete(key.apiKeyId);

process.stdout.write(JSON.stringify(calls));
