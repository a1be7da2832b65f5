// Which tiles a view needs, and the ones that are there. Positions are pixels of the lattice; a tile of level L shows
// side * 2^L of them. No DOM here, so that it can be tested by itself.

export function levelFor(scale, levels) {
  return Math.min(levels - 1, Math.max(0, Math.floor(Math.log2(1 / scale) + 1e-9)));
}

// The tiles of a level that lie in an area (left, top, right, bottom).
export function covering([left, top, right, bottom], level, side) {
  const size = side * 2 ** level, found = [];
  for (let y = Math.floor(top / size); y < Math.ceil(bottom / size); y++) {
    for (let x = Math.floor(left / size); x < Math.ceil(right / size); x++) found.push({level, x, y});
  }
  return found;
}

export function overlap(a, b) {
  const both = [Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])];
  return both[0] < both[2] && both[1] < both[3] ? both : null;
}

export function areaOf({level, x, y}, side) {
  const size = side * 2 ** level;
  return [x * size, y * size, (x + 1) * size, (y + 1) * size];
}

const keyOf = ({level, x, y}) => `${level}/${x}/${y}`;

export class TileStore {
  // load(tile, signal) gives a bitmap, or null where nothing is; changed() is called when one has come.
  constructor(load, changed, {side = 256, most = 400, atOnce = 4} = {}) {
    Object.assign(this, {load, changed, side, most, atOnce});
    this.kept = new Map();
    this.loading = new Map();
    this.wanted = [];
  }

  get idle() { return !this.loading.size && !this.wanted.length; }

  clear() {
    for (const {abort} of this.loading.values()) abort.abort();
    for (const {bitmap} of this.kept.values()) bitmap?.close?.();
    this.kept.clear();
    this.loading.clear();
    this.wanted = [];
  }

  // Tiles that show one of the areas are to be loaded again, and are shown until then; null for all.
  stale(areas, margin) {
    const touches = tile => !areas || areas.some(area => {
      const [left, top, right, bottom] = area;
      return overlap(areaOf(tile, this.side), [left - margin, top - margin, right + margin, bottom + margin]);
    });
    for (const entry of this.kept.values()) if (touches(entry.tile)) entry.stale = true;
    for (const entry of this.loading.values()) if (touches(entry.tile)) entry.again = true;
  }

  // The tile, or the nearest coarser one that is there, and which part of it to draw.
  find(tile, top) {
    for (let up = 0; tile.level + up <= top; up++) {
      const parent = {level: tile.level + up, x: tile.x >> up, y: tile.y >> up};
      const entry = this.kept.get(keyOf(parent));
      if (!entry) continue;
      this.kept.delete(keyOf(parent));
      this.kept.set(keyOf(parent), entry);
      if (!entry.bitmap) return null;
      const part = this.side / 2 ** up;
      return {bitmap: entry.bitmap, x: (tile.x - parent.x * 2 ** up) * part, y: (tile.y - parent.y * 2 ** up) * part, size: part};
    }
    return null;
  }

  // What is wanted from now on, the first first; what is loading and not wanted any more is given up.
  want(tiles) {
    const keys = new Set(tiles.map(keyOf));
    this.wanted = tiles.filter(tile => {
      const entry = this.kept.get(keyOf(tile));
      return (!entry || entry.stale) && !this.loading.has(keyOf(tile));
    });
    for (const [key, entry] of this.loading) if (!keys.has(key)) entry.abort.abort();
    this.next();
  }

  next() {
    while (this.loading.size < this.atOnce && this.wanted.length) this.begin(this.wanted.shift());
  }

  async begin(tile) {
    const key = keyOf(tile), entry = {tile, abort: new AbortController(), again: false};
    this.loading.set(key, entry);
    try {
      const bitmap = await this.load(tile, entry.abort.signal);
      if (this.loading.get(key) !== entry) return;
      this.kept.get(key)?.bitmap?.close?.();
      this.kept.delete(key);
      this.kept.set(key, {tile, bitmap, stale: entry.again});
      while (this.kept.size > this.most) {
        const [oldest, {bitmap: gone}] = this.kept.entries().next().value;
        gone?.close?.();
        this.kept.delete(oldest);
      }
      this.changed();
    } catch { /* given up, or the server is away: it is wanted again with the next look */ } finally {
      if (this.loading.get(key) === entry) this.loading.delete(key);
      this.next();
    }
  }
}
