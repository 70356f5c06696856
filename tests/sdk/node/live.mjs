// The WebSocket of the official npm SDK: `node live.mjs BASE_URL API_KEY`. Prints the calls it made, as JSON,
// and exits 0 when all of it holds.
import assert from "node:assert/strict";
import { AgentMailClient } from "agentmail";
import { calls, connect } from "./checks.mjs";

const [baseUrl, apiKey] = process.argv.slice(2);
const client = connect(baseUrl, apiKey);
const inbox = await client.inboxes.create({});

const heard = [];
let wake = () => {};
function hears(socket) {
    socket.on("message", (frame) => {
        heard.push(frame);
        wake();
    });
}
async function next() {
    while (!heard.length) await new Promise((done) => (wake = done));
    return heard.shift();
}

const socket = await client.websockets.connect();
hears(socket);
calls.push(["GET", "/v0", 101]);
socket.sendSubscribe({ type: "subscribe", inboxIds: [inbox.inboxId], eventTypes: ["message.sent"] });
const subscribed = await next();
assert.equal(subscribed.type, "subscribed");
assert.deepEqual(subscribed.inboxIds, [inbox.inboxId]);

socket.sendSubscribe({ type: "subscribe", inboxIds: ["nobody@agents.test"] });
const refused = await next();
assert.equal(refused.type, "error");
assert.equal(refused.name, "NotFoundError");

socket.sendSubscribe({ type: "subscribe", eventTypes: ["message.received"] });
assert.equal((await next()).type, "subscribed");
await client.inboxes.messages.send(inbox.inboxId, { to: inbox.email, subject: "Hello", text: "Hi" });
const events = [await next(), await next()];
const [received, sent] = events.sort((one, two) => one.eventType.localeCompare(two.eventType));
assert.equal(received.eventType, "message.received");
assert.equal(received.message.subject, "Hello");
assert.ok(received.message.timestamp instanceof Date);
assert.equal(sent.eventType, "message.sent");
assert.deepEqual(sent.send.recipients, [inbox.email]);
socket.close();

const stranger = new AgentMailClient({ baseUrl, apiKey: "inai_wrong" });
await assert.rejects(stranger.websockets.connect({ reconnectAttempts: 1 }));

process.stdout.write(JSON.stringify(calls));
