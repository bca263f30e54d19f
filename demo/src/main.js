// The page's controls and pictures.
import { Expected, dropped } from "./beside.js";
import { Gallery } from "./gallery.js";
import { inlinedFiles } from "./inlined.js";
import { Model } from "./model.js";
import { withCode } from "./text.js";

const MAX_SEED = 2 ** 31 - 1;
const MAX_PICTURES = 8;
const CPU = "wasm"; // onnxruntime's name of it
const GPU_FEATURES = ["shader-f16", "subgroups"];
const GPU_LIMITS = [
  "maxBindGroups",
  "maxBufferSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxComputeWorkgroupSizeY",
  "maxComputeWorkgroupSizeZ",
  "maxComputeWorkgroupStorageSize",
  "maxComputeWorkgroupsPerDimension",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
];
const $ = (id) => document.getElementById(id);

class Stopped extends Error {}

function main() {
  const facts = JSON.parse($("model").textContent);
  const page = new Page(facts);
  page.show();
  if (facts.files) page.askForFiles(new Expected(facts.files, facts.id));
  else page.load(inlinedFiles, [CPU]);
}

class Page {
  constructor(facts) {
    this.facts = facts;
    this.gallery = new Gallery(facts, (error) => {
      console.error(error);
      say(`The step cannot be shown: ${error.message}. Move the slider to try again.`, true);
    });
    this.run = 0; // a drawing stops when this is no longer its own number
    this.isDrawing = false;
    this.drawn = Promise.resolve(); // when the networks are free
  }

  show() {
    const { facts } = this;
    $("title").textContent = facts.title;
    document.title = facts.title;
    $("about").replaceChildren(...facts.about.map(paragraph));
    if (facts.prompt_template !== "{caption}") {
      $("template").textContent = `The model receives it as “${facts.prompt_template.replace("{caption}", "…")}”.`;
      $("template").hidden = false;
    }
    $("prompt").value = facts.examples[0].prompt;
    $("examples").replaceChildren(...facts.examples.map(({ prompt }) => this.exampleButton(prompt)));
    $("num").replaceChildren(...numbers(MAX_PICTURES).map((number) => new Option(number, number)));
    $("num").value = facts.files ? 1 : Math.min(MAX_PICTURES, Math.max(1, facts.examples[0].teacher.length));
    $("steps").replaceChildren(...Object.keys(facts.steps).map((number) => new Option(number, number)));
    $("steps").value = facts.trained_timesteps.length;
    $("seed").max = MAX_SEED;
    this.noteSteps();
    this.listen();
  }

  listen() {
    $("steps").addEventListener("change", () => this.noteSteps());
    $("another").addEventListener("click", () => {
      $("seed").value = Math.floor(Math.random() * MAX_SEED);
      say(`Seed ${$("seed").value}.`);
    });
    $("controls").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.isDrawing) this.run++;
      else this.start();
    });
    $("prompt").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.start();
    });
  }

  exampleButton(prompt) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = prompt;
    button.addEventListener("click", () => {
      $("prompt").value = prompt;
      this.start();
    });
    return button;
  }

  // What this number of steps means for the pictures.
  noteSteps() {
    const trained = this.facts.trained_timesteps;
    const timesteps = this.facts.steps[$("steps").value].map((step) => step.timestep);
    const others = timesteps.filter((timestep) => !trained.includes(timestep));
    const more = timesteps.length - trained.length;
    $("steps-note").textContent =
      more < 0
        ? `Faster and rougher than the ${trained.length} steps that the model was trained for.`
        : more > 0
          ? `Slower than the ${trained.length} steps that the model was trained for, and seldom better.`
          : others.length
            ? "The model was trained for as many steps, but at other timesteps."
            : "The number of steps that the model was trained for.";
  }

  // `providers` are tried in their order. Returns the one that loaded the model, or null if none did, which is then said.
  async load(files, providers) {
    for (const provider of providers) {
      say("Loading the model…");
      const progress = async (part) => {
        say(`Loading the model… ${Math.round(100 * part)}%`);
        await painted();
      };
      try {
        this.loading = Model.load(files, this.facts.latent_shape, provider, progress);
        await this.loading;
        if (!this.isDrawing) say("Ready.");
        return provider;
      } catch (error) {
        if (provider === providers.at(-1)) this.fail("The model cannot be loaded", error);
        else console.info("The GPU cannot load the model:", error);
      }
    }
    return null;
  }

  // Instead of the controls, ask for the files beside the page.
  askForFiles(expected) {
    $("lead").textContent =
      "A text-to-image model that draws on your own device. Its files are in a folder next to this page. " +
      "Nothing that you type or choose leaves your device.";
    $("folder-names").replaceChildren(...withCode(expected.names.map((name) => `\`${name}\``).join(" or ")));
    $("controls").hidden = true;
    $("files").hidden = false;
    $("files").append($("status"));
    $("folder").addEventListener("change", () => this.loadBeside(() => expected.choose([...$("folder").files])));
    $("fetch").textContent = `Load the model from this server (${expected.smallestMib} MiB)`;
    $("fetch").hidden = !location.protocol.startsWith("http");
    $("fetch").addEventListener("click", () => this.loadBeside(() => expected.fetched(), $("fetch")));
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      if (!$("files").hidden && !$("folder").disabled) this.loadBeside(async () => expected.choose(await dropped(event.dataTransfer)));
    });
  }

  // Load what `find` returns, and show the controls. The CPU draws without WebGPU, and if the GPU cannot load the model.
  // After an error, `control` has the focus, which a browser takes from what is disabled.
  async loadBeside(find, control = $("folder")) {
    const setDisabled = (isDisabled) => ["folder", "fetch"].forEach((id) => ($(id).disabled = isDisabled));
    setDisabled(true);
    try {
      const files = await find();
      const device = await gpuDevice();
      const provider = await this.load(files, device ? [{ name: "webgpu", device }, CPU] : [CPU]);
      if (provider?.device !== device) device?.destroy();
      if (provider) this.showControls(readiness(provider, device));
    } catch (error) {
      say(error.message, true);
    }
    setDisabled(false);
    $("folder").value = ""; // the same folder may be chosen again
    if (!$("files").hidden) control.focus();
  }

  showControls(sentence) {
    $("draw").after($("status"));
    $("controls").hidden = false;
    $("files").hidden = true;
    $("draw").focus();
    say(sentence);
  }

  // Draw what the controls ask for, instead of what is being drawn.
  start() {
    const request = this.request();
    if (!request) return;
    const run = ++this.run;
    this.drawn = this.drawn.then(() => (run === this.run ? this.draw(request, run) : undefined));
  }

  async draw(request, run) {
    this.setDrawing(true);
    try {
      const started = await this.drawPictures(request, () => this.pause(run));
      const seconds = ((performance.now() - started) / 1000).toFixed(1);
      say(`${request.num === 1 ? "1 picture" : `${request.num} pictures`} in ${seconds} s.`);
    } catch (error) {
      if (error instanceof Stopped) say("Stopped.");
      else this.fail("The drawing failed", error);
    } finally {
      this.setDrawing(false);
    }
  }

  // Returns when the drawing itself began, after the model was loaded.
  async drawPictures(request, pause) {
    const model = await this.loading;
    const started = performance.now();
    this.gallery.begin(request, model);
    showSection();
    const embeds = await model.encode(this.facts.prompt_template.replace("{caption}", () => request.prompt));
    for (let index = 0; index < request.num; index++) {
      say(request.num === 1 ? "Drawing…" : `Drawing picture ${index + 1} of ${request.num}…`);
      const seed = request.seed + index;
      const predictions = await model.sample(embeds, seed, this.facts.steps[request.numSteps], pause);
      await this.gallery.add(seed, predictions);
    }
    return started;
  }

  // What the controls ask for, or null if a value is not valid, which is then said.
  request() {
    const prompt = $("prompt").value.trim();
    const num = Number($("num").value);
    const seed = Number($("seed").value || NaN);
    const isSeed = Number.isInteger(seed) && seed >= 0 && seed + num - 1 <= MAX_SEED;
    $("prompt").setAttribute("aria-invalid", !prompt);
    $("seed").setAttribute("aria-invalid", !isSeed);
    if (!prompt) return refuse($("prompt"), "Describe a picture first, or choose an example.");
    if (!isSeed) return refuse($("seed"), `The seed is a whole number from 0 to ${MAX_SEED - num + 1}.`);
    return { prompt, num, seed, numSteps: Number($("steps").value) };
  }

  async pause(run) {
    await painted();
    if (run !== this.run) throw new Stopped();
  }

  setDrawing(isDrawing) {
    this.isDrawing = isDrawing;
    $("draw").textContent = isDrawing ? "Stop" : "Draw";
    $("gallery").setAttribute("aria-busy", isDrawing);
  }

  fail(what, error) {
    console.error(error);
    say(`${what}: ${error.message}. Reload the page; if that does not help, close other pages to free memory.`, true);
  }
}

// A GPU device with what onnxruntime uses of this GPU, or null. onnxruntime gets this one: if a browser refused it a
// device of its own, it would wait without end.
async function gpuDevice() {
  try {
    const adapter = await navigator.gpu.requestAdapter();
    return await adapter.requestDevice({
      requiredFeatures: GPU_FEATURES.filter((name) => adapter.features.has(name)),
      requiredLimits: Object.fromEntries(GPU_LIMITS.map((name) => [name, adapter.limits[name]])),
    });
  } catch {
    return null;
  }
}

// What draws, and why not the GPU. `device` is the GPU's, or null.
function readiness(provider, device) {
  if (provider !== CPU) return "Ready. This browser draws on the GPU (WebGPU).";
  const reason = device ? "the GPU cannot load this model" : "WebGPU is not available here";
  return `Ready. This browser draws on the CPU, which is slow, because ${reason}.`;
}

function paragraph(text) {
  const element = document.createElement("p");
  element.append(...withCode(text));
  return element;
}

function say(text, isError = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", isError);
}

function refuse(control, text) {
  say(text, true);
  control.focus();
  return null;
}

// On a phone, the pictures are below the controls.
function showSection() {
  const section = $("pictures-name");
  if (section.getBoundingClientRect().top < innerHeight / 2) return;
  const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  section.scrollIntoView({ behavior: isCalm ? "auto" : "smooth" });
}

function numbers(last) {
  return Array.from({ length: last }, (_, index) => index + 1);
}

// The browser shows a page only between two tasks; a page in the background shows nothing, so there is a limit.
function painted() {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, 100);
    requestAnimationFrame(() => {
      clearTimeout(timer);
      setTimeout(resolve);
    });
  });
}

// Without WebAssembly and the like, the script before this one has said so.
if ($("unsupported").hidden) main();
