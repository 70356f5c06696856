// The WebSocket of the official npm SDK over a restart: `node reconnect.mjs BASE_URL API_KEY`. Prints a line
// each time it has subscribed, and exits 0 when it was told of a mail after coming back.
import { AgentMailClient } from "agentmail";

const [baseUrl, apiKey] = process.argv.slice(2);
const client = new AgentMailClient({ baseUrl, apiKey });
const socket = await client.websockets.connect({ waitForOpen: false });
// Between two attempts of the SDK nothing else may keep this process alive.
setInterval(() => {}, 1000);
socket.on("open", () => {
    try {
        socket.sendSubscribe({ type: "subscribe" });
    } catch {
        // It was closed again before it was asked; the SDK comes back once more.
    }
});
socket.on("close", (event) => console.log(`closed ${event.code}`));
socket.on("error", () => {});
socket.on("message", (frame) => {
    console.log(frame.type === "event" ? `told ${frame.eventType}` : frame.type);
    if (frame.type === "event") process.exit(0);
});
