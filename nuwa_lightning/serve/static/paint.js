// A pad to paint on: holes of an image (white where it is made anew), or a plan in colors. Arrows move the brush, Space paints.
export class Pad {
  constructor(element, controls) {
    Object.assign(this, {element, controls, at: [0, 0]});
    this.ink = document.createElement("canvas");
    element.addEventListener("pointerdown", event => { element.setPointerCapture(event.pointerId); this.down = true; this.dab(this.place(event)); });
    element.addEventListener("pointermove", event => { if (this.down) this.dab(this.place(event)); });
    for (const name of ["pointerup", "pointercancel"]) element.addEventListener(name, () => { this.down = false; });
    element.addEventListener("keydown", event => {
      const step = this.brush / 2, moves = {ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step]};
      if (moves[event.key]) this.at = this.at.map((n, axis) => Math.min([this.ink.width, this.ink.height][axis], Math.max(0, n + moves[event.key][axis])));
      else if (event.key !== " ") return;
      event.preventDefault();
      event.stopPropagation();
      if (event.key === " ") this.dab(this.at);
      this.show();
    });
  }

  // A new pad; kind is mask or plan. What lies under the ink is shown, and of a plan is part of it.
  begin(kind, [width, height], under = null) {
    Object.assign(this, {kind, under, touched: kind === "plan" && Boolean(under), at: [width / 2, height / 2]});
    for (const each of [this.ink, this.element]) Object.assign(each, {width, height});
    const context = this.ink.getContext("2d");
    if (kind === "plan") {
      context.fillStyle = "#8fa3b5";
      context.fillRect(0, 0, width, height);
      if (under) context.drawImage(under, 0, 0, width, height);
    }
    this.show();
  }

  get brush() { return Number(this.controls.size.value) / 100 * Math.max(this.ink.width, this.ink.height); }

  place(event) {
    const box = this.element.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width * this.ink.width, (event.clientY - box.top) / box.height * this.ink.height];
  }

  dab([x, y]) {
    const context = this.ink.getContext("2d");
    context.fillStyle = this.kind === "mask" ? "#fff" : this.controls.color.value;
    context.beginPath();
    context.arc(x, y, this.brush / 2, 0, 2 * Math.PI);
    context.fill();
    Object.assign(this, {touched: true, at: [x, y]});
    this.show();
  }

  show() {
    const {width, height} = this.ink, context = this.element.getContext("2d");
    context.clearRect(0, 0, width, height);
    if (this.kind === "mask" && this.under) context.drawImage(this.under, 0, 0, width, height);
    context.globalAlpha = this.kind === "mask" ? 0.7 : 1;
    context.drawImage(this.ink, 0, 0);
    context.globalAlpha = 1;
    if (document.activeElement !== this.element) return;
    for (const [color, wide] of [["#fff", 3], ["#000", 1]]) {
      Object.assign(context, {strokeStyle: color, lineWidth: wide * width / 200});
      context.beginPath();
      context.arc(...this.at, this.brush / 2, 0, 2 * Math.PI);
      context.stroke();
    }
  }

  // What was painted as a PNG without transparency: the server takes a mask that is white or black, nothing between.
  async file() {
    const {width, height} = this.ink, whole = Object.assign(document.createElement("canvas"), {width, height}), context = whole.getContext("2d");
    context.fillRect(0, 0, width, height);
    context.drawImage(this.ink, 0, 0);
    const blob = await new Promise(resolve => whole.toBlob(resolve, "image/png"));
    return new File([blob], `${this.kind}.png`, {type: "image/png"});
  }
}
