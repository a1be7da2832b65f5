// The viewer's arithmetic and its store of tiles, by node.
import assert from "node:assert";
import {test} from "node:test";
import {Brush} from "../../nuwa_lightning/serve/static/brush.js";
import {TileStore, areaOf, covering, levelFor, overlap} from "../../nuwa_lightning/serve/static/tiles.js";

const settled = () => new Promise(resolve => setTimeout(resolve, 5));

test("a level shows at least as many pixels as the screen has", () => {
  for (const [scale, level] of [[4, 0], [1, 0], [0.51, 0], [0.5, 1], [0.26, 1], [0.25, 2], [1e-9, 23]]) assert.equal(levelFor(scale, 24), level);
});

test("tiles cover an area, below 0 too", () => {
  const found = covering([-300, -1, 513, 257], 0, 256);
  assert.deepEqual(found.map(({x, y}) => [x, y]).slice(0, 6), [[-2, -1], [-1, -1], [0, -1], [1, -1], [2, -1], [-2, 0]]);
  assert.equal(found.length, 15);
  assert.deepEqual(areaOf({level: 2, x: -1, y: 1}, 256), [-1024, 1024, 0, 2048]);
  assert.equal(overlap([0, 0, 4, 4], [4, 0, 8, 8]), null);
});

test("at most four load at once, the first wanted first, what is not wanted any more is given up", async () => {
  const begun = [], aborted = [];
  const store = new TileStore(({x}, signal) => new Promise((resolve, reject) => {
    begun.push(x);
    signal.onabort = () => { aborted.push(x); reject(new Error("aborted")); };
  }), () => {});
  store.want([0, 1, 2, 3, 4, 5].map(x => ({level: 0, x, y: 0})));
  assert.deepEqual(begun, [0, 1, 2, 3]);
  store.want([5, 3].map(x => ({level: 0, x, y: 0})));
  await settled();
  assert.deepEqual(aborted, [0, 1, 2]);
  assert.deepEqual(begun, [0, 1, 2, 3, 5]);
});

test("what is stale is shown until it has come again, and what changes while it loads loads once more", async () => {
  let version = 0;
  const store = new TileStore(async () => ({version: ++version}), () => {});
  const tile = {level: 0, x: 0, y: 0};
  store.want([tile]);
  await settled();
  store.stale([[300, 0, 400, 10]], 16);
  store.want([tile]);
  await settled();
  assert.equal(version, 1);
  store.stale([[260, 0, 400, 10]], 16);
  assert.equal(store.find(tile, 4).bitmap.version, 1);
  store.want([tile]);
  store.stale(null);
  await settled();
  assert.equal(store.find(tile, 4).bitmap.version, 2);
  store.want([tile]);
  await settled();
  assert.equal(store.find(tile, 4).bitmap.version, 3);
});

test("a coarser tile stands in, its right part", async () => {
  const store = new TileStore(async tile => ({tile}), () => {});
  store.want([{level: 2, x: -1, y: 0}]);
  await settled();
  const {x, y, size} = store.find({level: 0, x: -3, y: 2}, 4);
  assert.deepEqual([x, y, size], [64, 128, 64]);
  assert.equal(store.find({level: 0, x: 0, y: 0}, 4), null);
});

test("memory is bounded: the oldest tiles go, and are closed", async () => {
  let closed = 0;
  const store = new TileStore(async () => ({close: () => { closed++; }}), () => {}, {most: 10});
  for (let x = 0; x < 100; x++) {
    store.want([{level: 0, x, y: 0}]);
    await settled();
  }
  assert.equal(store.kept.size, 10);
  assert.equal(closed, 90);
});

test("what is painted is covered by boxes, exactly, in pixels of the image", () => {
  const brush = new Brush(), patch = [8, 4], bounds = [-13, -5, 40, 17], inside = [-2, -2, 5, 5];
  let seed = 7;
  const next = n => (seed = (seed * 48271) % 2147483647) % n;
  for (let stroke = 0; stroke < 40; stroke++) {
    const at = [next(9) - 3, next(9) - 3];
    brush.begin(at);
    brush.dab(at, 1 + next(3), inside);
    const painted = new Set();
    for (const [left, top, right, bottom] of brush.boxes(patch, bounds)) {
      for (let y = top; y < bottom; y++) for (let x = left; x < right; x++) {
        assert.ok(!painted.has(`${x},${y}`));
        painted.add(`${x},${y}`);
      }
    }
    for (let y = 0; y < 22; y++) for (let x = 0; x < 53; x++) {
      const on = [Math.floor((x - 13) / 8), Math.floor((y - 5) / 4)].join();
      assert.equal(painted.has(`${x},${y}`), brush.chosen.has(on));
    }
  }
});

test("a stroke that begins on what is painted takes away", () => {
  const brush = new Brush();
  for (const at of [[1, 1], [2, 1], [1, 1]]) {
    brush.begin(at);
    brush.dab(at, 1, [0, 0, 4, 4]);
  }
  assert.deepEqual(brush.boxes([8, 8], [0, 0, 32, 32]), [[16, 8, 24, 16]]);
});
