// The page's controls and pictures.
import { Gallery } from "./gallery.js";
import { Model } from "./model.js";
import { withCode } from "./text.js";

const MAX_SEED = 2 ** 31 - 1;
const MAX_PICTURES = 8;
const $ = (id) => document.getElementById(id);

class Stopped extends Error {}

function main() {
  const facts = JSON.parse($("model").textContent);
  const page = new Page(facts);
  page.show();
  page.load();
}

class Page {
  constructor(facts) {
    this.facts = facts;
    this.gallery = new Gallery(facts);
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
    $("num").value = Math.min(MAX_PICTURES, Math.max(1, facts.examples[0].teacher.length));
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

  // Which of the timesteps of this number of steps the model was trained at.
  noteSteps() {
    const trained = this.facts.trained_timesteps;
    const timesteps = this.facts.steps[$("steps").value].map((step) => step.timestep);
    const others = timesteps.filter((timestep) => !trained.includes(timestep));
    const kind =
      timesteps.length === trained.length && !others.length
        ? "The number of steps that the model was trained for."
        : `The model was trained for ${trained.length} steps. ` +
          (others.length ? "This number needs timesteps that it was not trained at." : "This number skips some of them.");
    $("steps-note").textContent = kind;
  }

  async load() {
    say("Loading the model…");
    try {
      this.loading = Model.load(this.facts.latent_shape, async (part) => {
        say(`Loading the model… ${Math.round(100 * part)}%`);
        await painted();
      });
      await this.loading;
      if (!this.isDrawing) say("Ready.");
    } catch (error) {
      this.fail("The model cannot be loaded", error);
    }
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
