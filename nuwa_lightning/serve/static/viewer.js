// A deep zoom of one canvas, drawn on a 2D context: pan, zoom, a box, what lies beyond its sides.
import {TileStore, areaOf, covering, levelFor, overlap} from "./tiles.js";
import {Brush} from "./brush.js";
import {drawWave} from "./overlay.js";

export class Viewer {
  // on: {part(), beyond(sides), moved()}; tool: "box", "brush" or "" for moving about.
  constructor(element, model, on) {
    Object.assign(this, {element, model, on});
    this.context = element.getContext("2d");
    this.store = new TileStore((tile, signal) => this.load(tile, signal), () => this.paint(), {side: model.side});
    this.center = [0, 0];
    this.scale = 1;
    this.frame = 0;
    this.wave = null;
    this.tool = "";
    this.brush = new Brush();
    this.brushSide = 1;
    new ResizeObserver(() => this.paint()).observe(element);
    element.addEventListener("pointerdown", event => this.down(event));
    element.addEventListener("pointermove", event => this.move(event));
    element.addEventListener("pointerup", event => this.up(event));
    element.addEventListener("pointercancel", () => { this.drag = null; });
    element.addEventListener("wheel", event => {
      event.preventDefault();
      if (event.ctrlKey || !event.shiftKey && !event.deltaX) this.zoom(1.0015 ** -event.deltaY, this.at(event));
      else this.pan((event.deltaX || event.deltaY) / this.scale, event.deltaX ? event.deltaY / this.scale : 0);
    }, {passive: false});
  }

  show(canvas) {
    const other = canvas?.id !== this.canvas?.id;
    this.canvas = canvas;
    if (other) {
      this.store.clear();
      this.frame = 0;
      this.wave = this.selected = this.cursor = null;
      this.brush.clear();
      if (canvas) this.fit();
    }
    this.paint();
  }

  setFrame(frame) {
    this.frame = frame;
    this.store.stale(null);
    this.paint();
  }

  async load({level, x, y}, signal) {
    const path = `/api/canvases/${this.canvas.id}/tiles/${level}/${x}/${y}?t=${this.frame}`;
    const response = await fetch(path, {signal});
    if (response.status === 204) return null;
    if (!response.ok) throw new Error(response.status);
    return createImageBitmap(await response.blob());
  }

  // -- where one looks
  get size() { return [this.element.clientWidth || 1, this.element.clientHeight || 1]; }
  get seen() {
    const [width, height] = this.size, [x, y] = this.center;
    return [x - width / 2 / this.scale, y - height / 2 / this.scale, x + width / 2 / this.scale, y + height / 2 / this.scale];
  }
  at(event) {
    const box = this.element.getBoundingClientRect(), [left, top] = this.seen;
    return [left + (event.clientX - box.left) / this.scale, top + (event.clientY - box.top) / this.scale];
  }
  toScreen([x, y]) { return [(x - this.seen[0]) * this.scale, (y - this.seen[1]) * this.scale]; }

  fit() {
    const [left, top, right, bottom] = this.canvas.bounds, [width, height] = this.size;
    this.center = [(left + right) / 2, (top + bottom) / 2];
    this.scale = Math.min(4, 0.8 * Math.min(width / (right - left), height / (bottom - top)));
    this.paint();
    this.on.moved();
  }

  zoom(factor, [x, y] = this.center) {
    const scale = Math.min(32, Math.max(1e-5, this.scale * factor)), by = this.scale / scale;
    this.scale = scale;
    this.look([x + (this.center[0] - x) * by, y + (this.center[1] - y) * by]);
  }

  pan(x, y) { this.look([this.center[0] + x, this.center[1] + y]); }

  // The middle of the screen never leaves the canvas, however fast one scrolls: it would be lost, and not grow on.
  look([x, y]) {
    const [left, top, right, bottom] = this.canvas?.bounds ?? [x, y, x, y];
    this.center = [Math.min(right, Math.max(left, x)), Math.min(bottom, Math.max(top, y))];
    this.paint();
    this.on.moved();
  }

  // -- the pointer
  down(event) {
    if (!this.canvas || event.button) return;
    this.element.setPointerCapture(event.pointerId);
    const tool = event.altKey ? "box" : this.tool, start = this.at(event);
    this.drag = {start, last: [event.clientX, event.clientY], moved: false, tool};
    if (tool === "brush") {
      this.brush.begin(this.patchAt(start));
      this.dab(this.patchAt(start));
    }
  }

  move(event) {
    if (!this.canvas) return;
    const at = this.at(event);
    if (!this.drag) {
      this.hover = at;
      this.element.classList.toggle("beyond", !this.tool && Object.keys(this.beyond(at)).length > 0);
      this.paint();
      return;
    }
    const [x, y] = this.drag.last;
    if (Math.hypot(event.clientX - x, event.clientY - y) > 3) this.drag.moved = true;
    if (this.drag.tool === "brush") this.stroke(this.patchAt(at));
    else if (this.drag.tool === "box") {
      const [left, top, right, bottom] = this.canvas.bounds;
      const clamp = ([a, b]) => [Math.round(Math.min(right, Math.max(left, a))), Math.round(Math.min(bottom, Math.max(top, b)))];
      const [a, b] = [clamp(this.drag.start), clamp(at)];
      this.select([Math.min(a[0], b[0]) - left, Math.min(a[1], b[1]) - top, Math.max(a[0], b[0]) - left, Math.max(a[1], b[1]) - top]);
    } else if (this.drag.moved) {
      this.drag.last = [event.clientX, event.clientY];
      this.pan((x - event.clientX) / this.scale, (y - event.clientY) / this.scale);
    }
  }

  up(event) {
    const drag = this.drag;
    this.drag = null;
    if (!drag || drag.moved) return;
    const sides = this.beyond(this.at(event));
    if (!drag.tool && Object.keys(sides).length) this.on.beyond(sides);
  }

  select(box) {
    this.selected = box && box[0] < box[2] && box[1] < box[3] ? box : null;
    this.brush.clear();
    this.on.part();
    this.paint();
  }

  // -- the brush: patches to be made again
  patchAt([x, y]) { return [Math.floor(x / this.canvas.patch[0]), Math.floor(y / this.canvas.patch[1])]; }

  get patches() {
    const [left, top, right, bottom] = this.canvas.bounds;
    return [...this.patchAt([left, top]), ...this.patchAt([right - 1, bottom - 1]).map(n => n + 1)];
  }

  dab(at) {
    this.selected = null;
    this.cursor = at;
    this.brush.dab(at, this.brushSide, this.patches);
    this.on.part();
    this.paint();
  }

  // A pointer that is quick jumps over patches: all on the line are painted.
  stroke([x, y]) {
    const [u, v] = this.cursor, steps = Math.max(Math.abs(x - u), Math.abs(y - v), 1);
    for (let n = 1; n <= steps; n++) this.dab([u + Math.round((x - u) * n / steps), v + Math.round((y - v) * n / steps)]);
  }

  // Keys: the brush goes on by a patch, and paints where it is.
  moveBrush(x, y) {
    const [a, b, c, d] = this.patches, [u, v] = this.cursor ?? this.patchAt(this.center);
    this.cursor = [Math.min(c - 1, Math.max(a, u + x)), Math.min(d - 1, Math.max(b, v + y))];
    this.paint();
  }

  paintHere() {
    this.moveBrush(0, 0);
    this.brush.begin(this.cursor);
    this.dab(this.cursor);
  }

  // How far, in whole patches, a point lies beyond each side.
  beyond([x, y]) {
    if (!this.canvas) return {};
    const [left, top, right, bottom] = this.canvas.bounds, [width, height] = this.canvas.patch, sides = {};
    const whole = (far, patch) => Math.min(16, Math.ceil(far / patch)) * patch;
    if (x < left) sides.left = whole(left - x, width);
    if (x >= right) sides.right = whole(x - right + 1, width);
    if (y < top) sides.up = whole(top - y, height);
    if (y >= bottom) sides.down = whole(y - bottom + 1, height);
    for (const [axis, names] of [["x", ["left", "right"]], ["y", ["up", "down"]]]) {
      if (this.canvas.wrap.includes(axis)) for (const name of names) delete sides[name];
    }
    return sides;
  }

  // -- drawing
  paint() {
    this.due ??= requestAnimationFrame(() => { this.due = undefined; this.draw(); });
  }

  draw() {
    const [width, height] = this.size, ratio = devicePixelRatio || 1, {context} = this;
    if (this.element.width !== Math.round(width * ratio) || this.element.height !== Math.round(height * ratio)) {
      [this.element.width, this.element.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!this.canvas) return;
    const {bounds} = this.canvas, {side} = this.model;
    this.checked(bounds);
    const seen = overlap(this.seen, bounds);
    const level = levelFor(this.scale * ratio, this.model.levels);
    const top = Math.max(level, Math.ceil(Math.log2(Math.max(bounds[2] - bounds[0], bounds[3] - bounds[1]) / side)));
    const tiles = seen ? covering(seen, level, side) : [];
    context.imageSmoothingEnabled = this.scale * ratio < 2;
    for (const tile of tiles) this.drawTile(tile, top);
    const [x, y] = this.center, far = tile => {
      const [left, up, right, down] = areaOf(tile, side);
      return Math.hypot((left + right) / 2 - x, (up + down) / 2 - y);
    };
    const coarse = seen ? [top, Math.min(top, level + 2)].flatMap(each => covering(seen, each, side)) : [];
    this.store.want([...coarse.slice(0, 16), ...tiles.sort((a, b) => far(a) - far(b))]);
    this.frameOf(bounds);
    if (this.wave) drawWave(context, this.wave, this.canvas.patch, place => this.toScreen(place), this.scale);
  }

  drawTile(tile, top) {
    const found = this.store.find(tile, top);
    if (!found) return;
    const [left, up, right, down] = areaOf(tile, this.model.side);
    const [a, b] = this.toScreen([left, up]).map(Math.floor), [c, d] = this.toScreen([right, down]).map(Math.floor);
    this.context.drawImage(found.bitmap, found.x, found.y, found.size, found.size, a, b, c - a, d - b);
  }

  checked([left, top, right, bottom]) {
    const [a, b] = this.toScreen([left, top]), [c, d] = this.toScreen([right, bottom]), {context} = this;
    context.fillStyle = "#8883";
    context.fillRect(a, b, c - a, d - b);
  }

  frameOf([left, top, right, bottom]) {
    const {context} = this, outline = ([a, b, c, d], style, dash) => {
      const [x, y] = this.toScreen([a, b]), [u, v] = this.toScreen([c, d]);
      context.setLineDash(dash);
      context.lineWidth = 2;
      for (const [color, wide] of [["#fff", 4], [style, 2]]) {
        context.strokeStyle = color;
        context.lineWidth = wide;
        context.strokeRect(x, y, u - x, v - y);
      }
      context.setLineDash([]);
    };
    const boxes = this.selected ? [this.selected] : this.brush.boxes(this.canvas.patch, this.canvas.bounds);
    for (const [a, b, c, d] of boxes) outline([a + left, b + top, c + left, d + top], "#b3261e", []);
    if (this.tool === "brush" && this.cursor) {
      const [[x, y], [width, height]] = [this.cursor, this.canvas.patch];
      outline([x * width, y * height, (x + 1) * width, (y + 1) * height], "#000", [2, 2]);
    }
    if (!this.hover || this.tool || this.drag) return;
    const sides = this.beyond(this.hover);
    if (!Object.keys(sides).length) return;
    const {left: l = 0, right: r = 0, up: u = 0, down: d = 0} = sides;
    outline([left - l, top - u, right + r, bottom + d], "#1d5f96", [6, 4]);
  }
}
