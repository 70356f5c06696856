// Bodies of events against the schemas of the official npm SDK, held to strictly: `node schemas.mjs FILE`, which
// holds a JSON array of them. Exits 0 when each is what it says it is.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

// The package exports no path to them.
const require = createRequire(import.meta.url);
const { WebsocketsSocketResponse } = require("./node_modules/agentmail/dist/cjs/serialization/index.js");

for (const body of JSON.parse(readFileSync(process.argv[2], "utf-8"))) {
    const read = WebsocketsSocketResponse.parse(body, { unrecognizedObjectKeys: "passthrough" });
    assert.ok(read.ok, `${body.event_type}: ${JSON.stringify(read.errors)}`);
    assert.equal(read.value.eventType, body.event_type);
    const [subject] = Object.values(read.value).filter((each) => each.inboxId || each.domainId);
    assert.ok(subject.createdAt instanceof Date || subject.timestamp instanceof Date);
}
