// A chart of probabilities over time, drawn by hand: one line for each label.

import { onPage } from "./common.js";

const dashes = [[], [7, 4], [2, 3], [9, 3, 2, 3]]; // so that lines differ by more than their colour

export class Timeline {
  // windowS: seconds that are shown, the newest at the right; null: all, from 0.
  constructor(canvas, legend, windowS = 60) {
    Object.assign(this, { canvas, legend, windowS, points: [], labels: [], colours: [], person: "" });
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.drawLegend();
      this.draw();
    });
  }

  setLabels(labels, colours) {
    if (labels.join() === this.labels.join()) return;
    Object.assign(this, { labels, colours, points: [] });
    this.drawLegend();
  }

  drawLegend() {
    this.legend.replaceChildren(
      ...this.labels.map((label, index) => {
        const item = document.createElement("li");
        const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
        svg.setAttribute("width", "26");
        svg.setAttribute("height", "8");
        svg.setAttribute("aria-hidden", "true");
        const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
        const looks = { x1: 0, x2: 26, y1: 4, y2: 4, "stroke-width": 3, stroke: onPage(this.colours[index]), "stroke-dasharray": this.dash(index).join(" ") };
        for (const [name, value] of Object.entries(looks)) line.setAttribute(name, value);
        svg.append(line);
        item.append(svg, label);
        return item;
      }),
    );
  }

  dash(index) {
    return dashes[index % dashes.length];
  }

  clear() {
    this.points = [];
    this.draw();
  }

  // Whose line is drawn, of what was seen already too. person: an id, or "" for what stands for all.
  choose(person) {
    this.person = person;
    this.draw();
  }

  // What comes next does not go on from here.
  gap() {
    const last = this.points.at(-1);
    if (last?.values) this.add(last.timeS, null);
  }

  // values: one for each label, or null where nobody was seen. people: such values by id, where one of them can be chosen.
  add(timeS, values, people = new Map()) {
    while (this.points.at(-1)?.timeS > timeS) this.points.pop(); // the source began anew
    this.points.push({ timeS, values, people });
    if (this.windowS) {
      const oldest = timeS - this.windowS - 1;
      while (this.points.length && this.points[0].timeS < oldest) this.points.shift();
    }
  }

  chosen(point) {
    return this.person ? (point.people.get(this.person) ?? null) : point.values;
  }

  draw() {
    const { canvas } = this;
    const width = canvas.clientWidth;
    const height = canvas.clientHeight;
    if (!width || !height) return;
    const sharp = devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * sharp) || canvas.height !== Math.round(height * sharp)) {
      canvas.width = Math.round(width * sharp);
      canvas.height = Math.round(height * sharp);
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(sharp, 0, 0, sharp, 0, 0);
    pen.clearRect(0, 0, width, height);
    const style = getComputedStyle(canvas);
    const soft = style.getPropertyValue("--soft");
    const edge = { left: 44, right: 12, top: 12, bottom: 26 };
    const last = this.points.at(-1)?.timeS ?? 0;
    const from = this.windowS ? last - this.windowS : 0;
    const span = this.windowS ?? Math.max(1, last);
    const x = (timeS) => edge.left + ((timeS - from) / span) * (width - edge.left - edge.right);
    const y = (share) => height - edge.bottom - share * (height - edge.top - edge.bottom);
    pen.font = "12px system-ui, sans-serif";
    pen.fillStyle = soft;
    pen.strokeStyle = style.getPropertyValue("--line");
    pen.lineWidth = 1;
    pen.setLineDash([]);
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      pen.beginPath();
      pen.moveTo(edge.left, y(share));
      pen.lineTo(width - edge.right, y(share));
      pen.stroke();
      pen.fillText(`${100 * share}%`, edge.left - 6, y(share));
    }
    pen.textAlign = "center";
    pen.textBaseline = "top";
    for (let part = 0; part <= 4; part++) {
      const timeS = from + (span * part) / 4;
      const text = this.windowS ? (part === 4 ? "now" : `-${Math.round(span * (1 - part / 4))} s`) : `${timeS.toFixed(span < 20 ? 1 : 0)} s`;
      pen.fillText(text, Math.max(x(timeS), edge.left + 10) - (part === 4 ? 12 : 0), height - edge.bottom + 7);
    }
    pen.save();
    pen.beginPath();
    pen.rect(edge.left, 0, width - edge.left - edge.right, height);
    pen.clip();
    pen.lineWidth = 2;
    const line = this.points.map((point) => [x(point.timeS), this.chosen(point)]);
    this.labels.forEach((_, index) => {
      pen.strokeStyle = onPage(this.colours[index]);
      pen.setLineDash(this.dash(index));
      pen.beginPath();
      let open = false;
      for (const [across, values] of line) {
        if (values) {
          if (open) pen.lineTo(across, y(values[index]));
          else pen.moveTo(across, y(values[index]));
        }
        open = Boolean(values);
      }
      pen.stroke();
    });
    pen.restore();
  }
}

// The mean over some faces, or null where there is none.
export function meanOf(faces, labels) {
  if (!faces.length) return null;
  return labels.map((label) => faces.reduce((sum, face) => sum + (face.probabilities[label] ?? 0), 0) / faces.length);
}
