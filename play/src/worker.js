// All computing happens here, off the page's thread: one task after the other.
import { Network } from "./network.js";
import { decode, networkInput } from "./faces.js";

let network, ort;
const sessions = {};

const TASKS = {
  load({ model, table }) {
    network = new Network(model, table);
  },

  // ONNX Runtime, from the two files that the page has unpacked, and a session for each arm: its
  // model, and whether integers with a sign may stay what they are. By default ONNX Runtime puts
  // them back into float for a part of the convolutions.
  async start({ bundle, wasm, arms }) {
    ort = await import(URL.createObjectURL(new Blob([bundle], { type: "text/javascript" })));
    ort.env.wasm.wasmBinary = wasm;
    ort.env.wasm.numThreads = 1; // more need headers, which a file does not have
    for (const { arm, model, signed } of arms)
      sessions[arm] = await ort.InferenceSession.create(new Uint8Array(model), {
        executionProviders: ["wasm"],
        extra: { session: { qdqisint8allowed: signed ? "1" : "0" } },
      });
  },

  // What each arm finds, and how many milliseconds its network takes.
  async find({ pixels, arms, how }) {
    const image = networkInput(pixels), results = {};
    for (const arm of arms) {
      const start = performance.now();
      const outputs = arm === "plain" ? network.run(image, how) : await infer(arm, image);
      const time = performance.now() - start;
      results[arm] = { time, faces: decode(outputs, image), tally: network.tally };
    }
    return results;
  },
};

async function infer(arm, { height, width, data }) {
  const feeds = { image: new ort.Tensor("float32", data, [1, 3, height, width]) };
  const { loc, conf, landm } = await sessions[arm].run(feeds);
  return { loc: loc.data, conf: conf.data, landm: landm.data };
}

let queue = Promise.resolve();
onmessage = ({ data: { id, task, ...rest } }) => {
  queue = queue.then(async () => {
    try {
      postMessage({ id, result: await TASKS[task](rest) });
    } catch (error) {
      postMessage({ id, error: String(error?.message ?? error) });
    }
  });
};
