// A client that knows nothing of ramole but protos/: usage: node client.mjs TASK, with the rest in the environment.
// Prints what it saw as one JSON object.

import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import protobuf from "protobufjs";
import { readFileSync } from "node:fs";

const { ADDRESS, KEY, CA, PROTOS, GOOGLE_PROTOS, PROMPT } = process.env;

const made = loadSync("ramole/v1/gateway.proto", {
  keepCase: true, longs: String, enums: String, defaults: true, oneofs: true, includeDirs: [PROTOS],
});
const { Gateway } = grpc.loadPackageDefinition(made).ramole.v1;
const credentials = CA ? grpc.credentials.createSsl(readFileSync(CA)) : grpc.credentials.createInsecure();
const client = new Gateway(ADDRESS, credentials);
const who = new grpc.Metadata();
if (KEY) who.set("authorization", `Bearer ${KEY}`);
const deadline = () => ({ deadline: Date.now() + 30_000 });
const request = { prompt: PROMPT, adapters: [{ adapter: "a" }], composition: { preset: "PRESET_SELECTION" } };

// What an error says beside its code: google.rpc.Status in grpc-status-details-bin.
function details(error) {
  const google = new protobuf.Root();
  google.resolvePath = (_, name) => `${GOOGLE_PROTOS}/${name}`;
  google.loadSync(["google/rpc/status.proto", "google/rpc/error_details.proto"]);
  const found = {};
  for (const raw of error.metadata.get("grpc-status-details-bin")) {
    for (const { type_url, value } of google.lookupType("google.rpc.Status").decode(raw).details) {
      const name = type_url.split("/").pop();
      found[name] = google.lookupType(name).toObject(google.lookupType(name).decode(value), { longs: String });
    }
  }
  return found;
}

function failed(error) {
  return { code: grpc.status[error.code], message: error.details, details: details(error) };
}

function unary(method, message) {
  return new Promise((resolve) => {
    client[method](message, who, deadline(), (error, answer) => resolve(error ? failed(error) : answer));
  });
}

function stream(method, message, onEvent = () => {}) {
  return new Promise((resolve) => {
    const events = [];
    const call = client[method](message, who, deadline());
    call.on("data", (event) => { events.push(event); onEvent(event, call); });
    call.on("error", (error) => resolve({ events, ...failed(error) }));
    call.on("end", () => resolve({ events }));
  });
}

const tasks = {
  describe: () => unary("Describe", {}),
  complete: () => unary("Complete", { request }),
  generate: () => stream("Generate", request),
  batch: () => stream("GenerateBatch", { requests: [request, { ...request, prompt: "" }] }),
  refused: () => stream("Generate", { ...request, prompt: "" }),
  cancel: () => stream("Generate", request, (event, call) => { if (event.event === "chunk") call.cancel(); }),
};

console.log(JSON.stringify(await tasks[process.argv[2]]()));
client.close();
