// The exported student: the same steps as naruto_add.generate.onnx_pipeline, with onnxruntime's WASM in one thread, or
// with WebGPU in the kind of page whose runtime has it.
import { Tokenizer } from "@huggingface/tokenizers";
import * as ort from "onnxruntime-web/wasm";
import { inlined } from "./inlined.js";
import { noise } from "./noise.js";

const NETWORKS = ["text_encoder", "unet", "vae_decoder"];
let runtime; // the promise of onnxruntime's WASM, which is in the page once
let free = Promise.resolve(); // when the networks are free: onnxruntime runs one at a time

export class Model {
  // `files` gives the bytes of a file by `read(name)`, and by `weights(name)` what it refers to in other files.
  // `provider` is onnxruntime's: "wasm", or "webgpu" with a device. Calls `progress` with the part that is loaded so far,
  // from 0 to 1.
  static async load(files, latentShape, provider, progress) {
    ort.env.logLevel = "error";
    ort.env.wasm.numThreads = 1; // a page that is a file gets no shared memory
    ort.env.wasm.proxy = false;
    runtime ??= inlined("runtime.wasm");
    ort.env.wasm.wasmBinary = await runtime;
    const model = new Model();
    model.latentShape = latentShape;
    model.lost = loss(provider.device);
    try {
      for (const [index, part] of NETWORKS.entries()) {
        await progress(index / NETWORKS.length);
        model[part] = await session(files, `${part}.onnx`, provider);
      }
    } catch (error) {
      await model.release();
      throw error;
    }
    model.setTokenizer(JSON.parse(new TextDecoder().decode(await files.read("tokenizer.json"))));
    return model;
  }

  // Free the memory of the networks.
  async release() {
    for (const part of NETWORKS) await this[part]?.release();
  }

  setTokenizer(json) {
    this.tokenizer = new Tokenizer(json, {});
    this.length = json.truncation.max_length;
    this.paddingId = json.padding.pad_id;
  }

  // Token ids, truncated and padded as Python's tokenizer does. The last id of a truncated prompt ends the text.
  ids(prompt) {
    const { ids } = this.tokenizer.encode(prompt);
    const kept = ids.length > this.length ? [...ids.slice(0, this.length - 1), ids.at(-1)] : ids;
    return [...kept, ...Array(this.length - kept.length).fill(this.paddingId)];
  }

  async encode(prompt) {
    const ids = BigInt64Array.from(this.ids(prompt), BigInt);
    return this.run("text_encoder", { input_ids: new ort.Tensor("int64", ids, [1, ids.length]) });
  }

  // The latents that each step predicts for the finished picture. Before each step, waits for `pause`, which may throw.
  async sample(embeds, seed, steps, pause) {
    const shape = [1, ...this.latentShape];
    let latents = noise(size(shape), seed);
    const predictions = [];
    for (const step of steps) {
      await pause();
      const eps = await this.run("unet", {
        latents: new ort.Tensor("float32", latents, shape),
        timesteps: new ort.Tensor("int64", BigInt64Array.of(BigInt(step.timestep)), [1]),
        prompt_embeds: embeds,
      });
      predictions.push(combined(step.x0_a, latents, step.x0_b, eps.data));
      latents = combined(step.a, latents, step.b, eps.data);
    }
    predictions[predictions.length - 1] = latents;
    return predictions;
  }

  // The picture of some latents: RGB bytes, width and height.
  async decode(latents) {
    const pixels = await this.run("vae_decoder", { latents: new ort.Tensor("float32", latents, [1, ...this.latentShape]) });
    const [, , height, width] = pixels.dims;
    const rgb = new Uint8Array(3 * height * width);
    for (let channel = 0; channel < 3; channel++) {
      for (let i = 0; i < height * width; i++) {
        rgb[3 * i + channel] = Math.round((pixels.data[channel * height * width + i] + 1) * 127.5);
      }
    }
    return { rgb, width, height };
  }

  // The slider asks for pictures while others are drawn. On a GPU that is lost, onnxruntime would wait without end.
  async run(part, inputs) {
    const session = this[part];
    const running = free.then(() => session.run(inputs));
    free = running.catch(() => undefined); // the caller gets the error; the next run does not
    const outputs = await Promise.race([running, this.lost]);
    return outputs[session.outputNames[0]];
  }
}

// A promise that fails when the browser takes this GPU device away; without a device, never.
function loss(device) {
  const lost = new Promise((_, reject) => {
    device?.lost.then(({ message }) => reject(new Error(`the GPU was lost (${message})`)));
  });
  lost.catch(() => undefined); // nobody waits for it while nothing is drawn
  return lost;
}

// int8 weights are restored once, on loading.
async function session(files, name, provider) {
  return ort.InferenceSession.create(await files.read(name), {
    executionProviders: [provider],
    externalData: await files.weights(name),
    extra: { session: { disable_quant_qdq: "1" } },
    logSeverityLevel: 3,
  });
}

function combined(a, x, b, eps) {
  return x.map((value, i) => a * value + b * eps[i]);
}

function size(shape) {
  return shape.reduce((product, side) => product * side, 1);
}
