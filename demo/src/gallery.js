// The drawn pictures: each with its states after every step, a download, and the teacher's picture if there is one.
import { png } from "./png.js";
import { slug } from "./text.js";

const $ = (id) => document.getElementById(id);

export class Gallery {
  // `onError` gets why a step could not be shown.
  constructor(facts, onError) {
    this.facts = facts;
    this.onError = onError;
    this.pictures = [];
    this.showing = Promise.resolve();
    $("shown").addEventListener("input", () => this.showStep());
  }

  // An empty gallery for these settings.
  begin(request, model) {
    for (const picture of this.pictures) picture.release();
    this.request = request;
    this.model = model;
    this.pictures = [];
    this.showing = Promise.resolve();
    this.example = this.facts.examples.find(({ prompt }) => prompt === request.prompt);
    $("gallery").replaceChildren();
    $("empty").hidden = true;
    $("shown").max = request.numSteps;
    $("shown").value = request.numSteps;
    $("slider").hidden = request.numSteps === 1;
    this.nameStep();
    this.noteComparison();
  }

  // The finished picture of a seed, from what each step predicted.
  async add(seed, predictions) {
    const teacher = this.example && (this.example.teacher[seed] ?? null);
    const picture = new Picture(this.facts, this.request, seed, predictions, teacher);
    const { step } = this;
    await picture.show(this.model, step);
    this.pictures.push(picture);
    $("gallery").append(picture.element);
    if (step !== this.step) this.showNext(picture); // the slider was moved meanwhile
  }

  get step() {
    return Number($("shown").value);
  }

  showStep() {
    this.nameStep();
    for (const picture of this.pictures) this.showNext(picture);
  }

  // Show the slider's step of this picture after the pictures that wait already, unless the slider has left the step or
  // the gallery the picture by then. A step that cannot be shown does not stop the pictures behind it.
  showNext(picture) {
    const { step, model } = this;
    const isWanted = () => step === this.step && this.pictures.includes(picture);
    this.showing = this.showing.then(() => (isWanted() ? picture.show(model, step) : undefined)).catch(this.onError);
  }

  nameStep() {
    const name = `${this.step} of ${this.request.numSteps}`;
    $("shown-name").textContent = name;
    $("shown").setAttribute("aria-valuetext", `Step ${name}`);
  }

  noteComparison() {
    const count = this.example?.teacher.length ?? 0;
    $("comparison").hidden = this.facts.examples.every(({ teacher }) => !teacher.length);
    $("comparison").textContent = count
      ? `Beside each: what the teacher, the slower model that this one learned from, draws from the same noise in ` +
        `${this.facts.teacher_steps} steps. The page contains the teacher's pictures for the seeds 0 to ${count - 1} only.`
      : "Choose an example to see beside it what the teacher, the slower model that this one learned from, draws from " +
        "the same noise.";
  }
}

class Picture {
  constructor(facts, request, seed, predictions, teacher) {
    this.facts = facts;
    this.request = request;
    this.seed = seed;
    this.predictions = predictions;
    this.addresses = new Map();
    this.element = document.createElement("li");
    this.image = new Image();
    this.download = document.createElement("a");
    this.download.textContent = "PNG";
    const caption = element("p", "caption", element("span", "", `Seed ${seed}`), this.download);
    this.element.append(element("div", "pair", ...this.figures(teacher)));
    this.element.append(caption);
  }

  // Beside the picture, the teacher's; null leaves its place empty, so that all pictures have one size.
  figures(teacher) {
    if (teacher === undefined) return [figure(this.image)];
    const image = teacher ? new Image() : element("div", "none");
    if (teacher) {
      image.src = teacher;
      image.alt = `The teacher's picture from the same noise: ${this.request.prompt}`;
    }
    const { numSteps } = this.request;
    const student = `Student, ${numSteps} ${numSteps === 1 ? "step" : "steps"}`;
    return [figure(this.image, student), figure(image, teacher ? `Teacher, ${this.facts.teacher_steps} steps` : "Teacher: not in the page")];
  }

  // The picture that this step predicts; decoded when it is first shown.
  async show(model, step) {
    if (!this.addresses.has(step)) {
      const { rgb, width, height } = await model.decode(this.predictions[step - 1]);
      const file = await png(rgb, width, height, this.metadata(step));
      this.addresses.set(step, URL.createObjectURL(file));
    }
    const { prompt, numSteps } = this.request;
    const state = step === numSteps ? "" : `, after step ${step} of ${numSteps}`;
    const name = `${slug(prompt)}-seed${this.seed}${step === numSteps ? "" : `-step${step}`}.png`;
    this.image.src = this.addresses.get(step);
    this.image.alt = `${prompt}, seed ${this.seed}${state}`;
    this.download.href = this.image.src;
    this.download.download = name;
    this.download.setAttribute("aria-label", `Download the picture of seed ${this.seed}${state} as PNG`);
    await this.image.decode();
  }

  // The keys of `naruto-add generate`.
  metadata(step) {
    const { prompt, numSteps } = this.request;
    const own = { prompt, seed: String(this.seed), model: this.facts.model, steps: String(numSteps) };
    const shown = step === numSteps ? {} : { shown_step: String(step) };
    return { ...own, ...shown, prompt_template: this.facts.prompt_template };
  }

  release() {
    for (const address of this.addresses.values()) URL.revokeObjectURL(address);
  }
}

function figure(image, name) {
  const parts = name ? [element("figcaption", "", name)] : [];
  return element("figure", "", image, ...parts);
}

function element(tag, className, ...content) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...content);
  return made;
}
