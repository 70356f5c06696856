// What the scripts share: a client that remembers its calls, and patience.
import assert from "node:assert/strict";
import { AgentMailClient, AgentMailError } from "agentmail";

export const calls = [];

export function connect(baseUrl, apiKey) {
    async function watched(url, options) {
        const answer = await fetch(url, options);
        calls.push([options.method, new URL(url).pathname, answer.status]);
        return answer;
    }
    return new AgentMailClient({ baseUrl, apiKey, fetch: watched });
}

export async function until(look, holds) {
    const deadline = Date.now() + 15_000;
    for (;;) {
        const seen = await look();
        if (holds(seen)) return seen;
        assert.ok(Date.now() < deadline, `not within 15 s; last seen: ${JSON.stringify(seen)}`);
        await new Promise((done) => setTimeout(done, 50));
    }
}

export async function refused(call, status, name) {
    await assert.rejects(call, (error) => {
        assert.ok(error instanceof AgentMailError, String(error));
        assert.equal(error.statusCode, status);
        assert.equal(error.body.name, name);
        return true;
    });
}

export function only(things) {
    assert.equal(things.length, 1, JSON.stringify(things));
    return things[0];
}
