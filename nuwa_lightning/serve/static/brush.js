// Patches that are painted, to be made again: positions on the lattice, as boxes of image pixels. No DOM here.
export class Brush {
  constructor() { this.clear(); }

  clear() { this.chosen = new Map(); }

  get empty() { return !this.chosen.size; }

  // Begins a stroke: on a patch that is chosen it takes away, else it adds.
  begin(at) { this.takes = this.chosen.has(at.join()); }

  // Takes in (or away) a square of side patches around one, of those inside [x0, y0, x1, y1].
  dab([x, y], side, [x0, y0, x1, y1]) {
    const from = Math.floor((side - 1) / 2);
    for (let v = Math.max(y0, y - from); v < Math.min(y1, y - from + side); v++) {
      for (let u = Math.max(x0, x - from); u < Math.min(x1, x - from + side); u++) {
        if (this.takes) this.chosen.delete(`${u},${v}`);
        else this.chosen.set(`${u},${v}`, [u, v]);
      }
    }
  }

  // As few boxes as runs give, of pixels of the image, whose bounds on the lattice are given: [left, top, right, bottom].
  boxes([width, height], [left, top, right, bottom]) {
    const open = new Map(), found = [], sorted = [...this.chosen.values()].sort((a, b) => a[1] - b[1] || a[0] - b[0]);
    const runs = [];
    for (const [x, y] of sorted) {
      const last = runs.at(-1);
      if (last && last.y === y && last.to === x) last.to++;
      else runs.push({y, from: x, to: x + 1});
    }
    for (const {y, from, to} of runs) {
      const above = open.get(`${from},${to}`);
      if (above && above.to[1] === y) above.to[1]++;
      else {
        const box = {from: [from, y], to: [to, y + 1]};
        open.set(`${from},${to}`, box);
        found.push(box);
      }
    }
    return found.map(({from, to}) => [Math.max(left, from[0] * width) - left, Math.max(top, from[1] * height) - top,
      Math.min(right, to[0] * width) - left, Math.min(bottom, to[1] * height) - top]);
  }
}
