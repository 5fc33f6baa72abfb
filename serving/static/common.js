// What the three panels share: asking the server, cards of people, boxes over pictures.

export const byId = (id) => document.getElementById(id);
export const limits = JSON.parse(document.body.dataset.limits);

// Where the server answers: a proxy may have put it below a path of its own.
export const address = (path) => document.body.dataset.root + path;

const grey = "#7f8791"; // of faces whose label is uncertain, as in the stream
const colours = new Map(); // of labels, by model

// patienceS: how long an answer may take to begin. Where the options bring a signal of their own, who asks ends it instead.
export async function ask(path, options = {}, patienceS = 20) {
  const impatient = new AbortController();
  const late = `No answer in ${patienceS} s. If this page is open in other windows, close some: a browser has six connections to a server for all of them.`;
  const timer = setTimeout(() => impatient.abort(new Error(late)), 1000 * patienceS);
  const answer = await fetch(address(path), { signal: impatient.signal, ...options }).finally(() => clearTimeout(timer));
  if (!answer.ok) {
    let text = `${answer.status} ${answer.statusText}`;
    try {
      text = (await answer.json()).error.message;
    } catch {
      // not ours, such as a proxy's page
    }
    throw new Error(text);
  }
  return answer;
}

export const postJson = async (path, value, patienceS = 20) =>
  (await ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(value) }, patienceS)).json();

// Each panel has a line of its own for what is said there; it stays while another panel is looked at.
export const sayIn = (panel) => (text, isError = false) => {
  const message = byId(`${panel}-message`);
  message.textContent = text;
  message.classList.toggle("error", isError);
};

// For a loop that tries again and again: tells what goes wrong, and takes it back when it goes on.
export class Trouble {
  constructor(panel) {
    Object.assign(this, { message: byId(`${panel}-message`), say: sayIn(panel), text: "" });
  }

  tell(text) {
    this.text = text;
    this.say(text, true);
  }

  over() {
    if (this.text && this.message.textContent === this.text) this.say("");
    this.text = "";
  }
}

export async function loadModels() {
  const { models } = await (await ask("/api/models")).json();
  for (const model of models) {
    colours.set(model.name, new Map(model.labels.map((label, index) => [label, model.colours[index]])));
  }
  return new Map(models.map((model) => [model.name, model]));
}

// A server that was started anew may have other models and sources than those that the page lets choose from.
export async function isOutdated() {
  const [models, sources] = await Promise.all([loadModels(), ask("/api/stream").then((answer) => answer.json())]);
  const differs = (id, names) => [...byId(id).options].map((option) => option.value).join("\n") !== names.join("\n");
  return differs("model", [...models.keys()]) || differs("source", sources.sources.map((each) => each.source));
}

// What went wrong with `ask`. A TypeError is of the network.
export const noAnswer = (error) => (error instanceof TypeError ? `The server does not answer (${error.message})` : error.message);

export const colourOf = (model, label) => colours.get(model)?.get(label) ?? grey;
const isDarkScheme = matchMedia("(prefers-color-scheme: dark)");

// The colours were chosen for white paper; on a dark page the darkest would not be seen.
export function onPage(colour) {
  if (!isDarkScheme.matches || !isDark(colour, 105)) return colour;
  return `color-mix(in srgb, ${colour} 45%, white)`;
}

export const percent = (share) => `${Math.round(100 * share)}%`;

// Cards are kept from one result to the next: rebuilding them ten times a second would lose what a reader has selected.
export class People {
  constructor(box) {
    this.box = box;
    this.cards = new Map();
  }

  show(faces, model) {
    const seen = new Set();
    faces.forEach((face, index) => {
      const key = `${face.id ?? index + 1}|${model}`;
      seen.add(key);
      if (!this.cards.has(key)) this.cards.set(key, this.makeCard(face, face.id ?? index + 1, model));
      this.fill(this.cards.get(key), face, model);
    });
    for (const [key, card] of this.cards) {
      if (!seen.has(key)) {
        card.root.remove();
        this.cards.delete(key);
      }
    }
  }

  makeCard(face, number, model) {
    const root = document.createElement("section");
    root.className = "person";
    root.setAttribute("aria-label", `Person ${number}`);
    const head = document.createElement("h3");
    const name = document.createElement("span");
    const sure = document.createElement("span");
    head.append(name, sure);
    const list = document.createElement("ol");
    const bars = new Map();
    for (const label of Object.keys(face.probabilities)) {
      const line = document.createElement("li");
      const text = document.createElement("span");
      text.textContent = label;
      const track = document.createElement("div");
      track.className = "track";
      track.setAttribute("aria-hidden", "true");
      const fill = document.createElement("div");
      fill.className = "fill";
      track.append(fill);
      const value = document.createElement("span");
      line.append(text, track, value);
      list.append(line);
      bars.set(label, { fill, value });
    }
    root.append(head, list);
    this.box.append(root);
    return { root, name, sure, bars, number };
  }

  fill(card, face, model) {
    card.name.textContent = `${card.number}: ${face.uncertain ? "uncertain" : face.label}`;
    card.sure.textContent = percent(face.confidence);
    card.root.style.borderLeftColor = face.uncertain ? grey : onPage(colourOf(model, face.label));
    for (const [label, bar] of card.bars) {
      const share = face.probabilities[label] ?? 0;
      bar.fill.style.background = onPage(colourOf(model, label));
      bar.fill.style.width = `${100 * share}%`;
      bar.value.textContent = percent(share);
    }
  }
}

// A small picture is enlarged by a whole factor, so that labels can be read in it and do not hide its faces; a strip not without end.
export function enlargement(width, height) {
  return Math.max(1, Math.min(Math.ceil(320 / Math.min(width, height)), Math.floor(4096 / Math.max(width, height))));
}

// The area that two boxes both cover.
const shared = (a, b) => Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));

// Boxes as the server draws them into its stream, and over all of them their labels, which no other box may cross out, nor, where
// there is room, another label.
// scale: from the picture's pixels to the canvas's.
export function drawBoxes(context, faces, model, scale = 1) {
  // Letters are to be read on the page, which shows a large canvas much smaller; how wide a hidden one will be is a guess.
  const { width, height } = context.canvas.getBoundingClientRect(); // an upright picture is not as wide as its box
  const perCss = context.canvas.width / (Math.min(width, (height * context.canvas.width) / context.canvas.height) || Math.min(640, innerWidth));
  context.lineWidth = Math.max(2, context.canvas.width / 320);
  context.textBaseline = "top";
  const boxes = faces.map((face) => face.box.map((edge) => edge * scale));
  const shades = faces.map((face) => (face.uncertain ? grey : colourOf(model, face.label)));
  boxes.forEach(([x1, y1, x2, y2], index) => {
    context.strokeStyle = shades[index];
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
  });
  const taken = [];
  faces.forEach((face, index) => {
    const [x1, y1, x2, y2] = boxes[index];
    const colour = shades[index];
    const text = `${face.id ?? index + 1} ${face.uncertain ? "uncertain" : face.label} ${percent(face.confidence)}`;
    const size = Math.max(13, 12 * perCss, Math.min(16 * perCss, (x2 - x1) / 9));
    const high = size * 1.45;
    context.font = `600 ${size}px system-ui, sans-serif`;
    const wide = context.measureText(text).width + size * 0.7;
    const left = Math.max(0, Math.min(x1, context.canvas.width - wide));
    // As `label_place` of the server: above the box, inside it, below or above its lower edge; the first that covers no label, and
    // hides no face that is small on the page.
    const lowest = Math.max(0, context.canvas.height - high);
    const tops = [y1 - high, Math.max(0, Math.min(y1, lowest)), y2, y2 - high].filter((each) => each >= 0 && each <= lowest);
    const small = boxes.filter((box, other) => other !== index || y2 - y1 < 3 * high);
    const cost = (each) => {
      const place = [left, each, left + wide, each + high];
      const hidden = small.map((box) => shared(place, box) / Math.max(1, shared(box, box))).filter((share) => share > 0.15);
      return 1000 * taken.some((label) => shared(place, label) > 0) + hidden.reduce((sum, share) => sum + share, 0);
    };
    const top = tops.reduce((best, each) => (cost(each) < cost(best) ? each : best));
    taken.push([left, top, left + wide, top + high]);
    context.fillStyle = colour;
    context.fillRect(left, top, wide, high);
    context.fillStyle = isDark(colour, 150) ? "#fff" : "#000";
    context.fillText(text, left + size * 0.35, top + size * 0.2);
  });
}

function isDark(colour, below) {
  const [red, green, blue] = [1, 3, 5].map((place) => parseInt(colour.slice(place, place + 2), 16));
  return 0.299 * red + 0.587 * green + 0.114 * blue < below;
}

export function saveAs(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
