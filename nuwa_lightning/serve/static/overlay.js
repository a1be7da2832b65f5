// How it grows: patches alive in the context pool, those of the last wave, what they saw, and the direction of travel.
export function drawWave(context, wave, [width, height], toScreen, scale) {
  const square = ([x, y], inset) => {
    const [a, b] = toScreen([x * width, y * height]);
    return [a + inset, b + inset, width * scale - 2 * inset, height * scale - 2 * inset];
  };
  const middle = ([x, y]) => toScreen([(x + 0.5) * width, (y + 0.5) * height]);
  context.lineWidth = 2;
  context.strokeStyle = "#0b7a6b";
  context.fillStyle = "#6ad3c355";
  for (const at of wave.alive) {
    context.fillRect(...square(at, 1));
    context.strokeRect(...square(at, 2));
  }
  context.strokeStyle = "#d4450c";
  context.fillStyle = "#ff8a3d66";
  for (const {at, sees, direction} of wave.finished) {
    context.fillRect(...square(at, 1));
    context.strokeRect(...square(at, 2));
    const [x, y] = middle(at);
    context.beginPath();
    for (const other of sees) {
      context.moveTo(...middle(other));
      context.lineTo(x, y);
    }
    const [u, v] = direction, far = 0.3 * Math.min(width, height) * scale;
    context.moveTo(x - u * far, y - v * far);
    context.lineTo(x + u * far, y + v * far);
    context.lineTo(x + u * far / 2 - v * far / 3, y + v * far / 2 - u * far / 3);
    context.moveTo(x + u * far, y + v * far);
    context.lineTo(x + u * far / 2 + v * far / 3, y + v * far / 2 + u * far / 3);
    context.stroke();
  }
}
