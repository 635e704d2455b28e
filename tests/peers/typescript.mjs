// One client of the TypeScript SDK: loads every tool, calls some, prints what they said.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [kind, home, command, ...args] = process.argv.slice(2);
const require = createRequire(`${home}/package.json`);
const load = (name) => import(pathToFileURL(require.resolve(name)));

async function parts() {
  if (kind === "sdk") {
    const { Client } = await load("@modelcontextprotocol/sdk/client/index.js");
    return [Client, (await load("@modelcontextprotocol/sdk/client/stdio.js")).StdioClientTransport, {}];
  }
  const { Client } = await load("@modelcontextprotocol/client");
  const mode = kind === "modern" ? { pin: "2026-07-28" } : "legacy";
  const { StdioClientTransport } = await load("@modelcontextprotocol/client/stdio");
  return [Client, StdioClientTransport, { versionNegotiation: { mode } }];
}

const [Client, Transport, options] = await parts();
const client = new Client({ name: "peer", version: "1" }, options);
await client.connect(new Transport({ command, args, env: process.env, stderr: "ignore" }));

// listTools compiles every output schema; callTool refuses a result that does not fit its own.
const { tools } = await client.listTools();
const call = async (name, given) => {
  const result = await client.callTool({ name, arguments: given });
  if (result.isError) throw new Error(JSON.stringify(result));
  return result;
};

const storage = `peer-${kind}`;
await call("stream_send", { stream: storage, message: { price: "1.5" } });
await call("storage_write", { key: storage, value: '{"a": 1}' });
await call("ohlc_create", { name: storage, intervals: [60000] });
const accepted = await call("ohlc_update", { name: storage, ticks: [{ symbol: "A", price: 1, volume: 1 }] });
const read = await call("stream_read", { stream: storage });
const value = await call("storage_read", { key: storage });
const chart = await call("candles_chart", { name: storage, symbol: "A", interval: 60000 });
console.log(
  JSON.stringify({
    tools: tools.map((tool) => tool.name).sort(),
    read: read.structuredContent.messages[0].data,
    accepted: accepted.structuredContent.accepted,
    value: value.structuredContent.value,
    chart: chart.content[1].mimeType,
  }),
);
await client.close();
