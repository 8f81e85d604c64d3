// From pixels to the network's input, and from its outputs to faces: as blaze_utils/standalone.py.

const MEAN_BGR = [104, 117, 123];
const LEVELS = [[8, [8, 11]], [16, [14, 19, 26, 38, 64, 149]]]; // stride, sides of the priors
const CENTRE_VARIANCE = 0.1, SIZE_VARIANCE = 0.2, OVERLAP = 0.4;

// RGBA pixels (an ImageData) as a feature map of three channels, BGR minus the mean; padded with
// zeros to multiples of 16.
export function networkInput(pixels) {
  const width = Math.ceil(pixels.width / 16) * 16, height = Math.ceil(pixels.height / 16) * 16;
  const data = new Float32Array(3 * height * width);
  for (let y = 0, p = 0; y < pixels.height; y++)
    for (let x = 0; x < pixels.width; x++, p += 4)
      for (let c = 0; c < 3; c++)
        data[(c * height + y) * width + x] = pixels.data[p + 2 - c] - MEAN_BGR[c];
  return { channels: 3, height, width, data };
}

// All faces of at least this score, surest first: { score, box: [x1, y1, x2, y2], points: 5 x, y }.
export function decode({ loc, conf, landm }, { height, width }, lowest = 0.02) {
  const found = [];
  let i = 0;
  for (const [stride, sides] of LEVELS)
    for (let row = 0; row < height / stride; row++)
      for (let column = 0; column < width / stride; column++)
        for (const side of sides) {
          const score = 1 / (1 + Math.exp(conf[2 * i] - conf[2 * i + 1]));
          const centre = [(column + 0.5) * stride, (row + 0.5) * stride];
          if (score >= lowest) found.push({ score, ...place(loc, landm, i, centre, side) });
          i++;
        }
  found.sort((a, b) => b.score - a.score);
  const kept = [];
  for (const face of found)
    if (kept.every((other) => overlap(face.box, other.box) <= OVERLAP)) kept.push(face);
  return kept;
}

function place(loc, landm, i, [cx, cy], side) {
  const x = cx + loc[4 * i] * CENTRE_VARIANCE * side, y = cy + loc[4 * i + 1] * CENTRE_VARIANCE * side;
  const w = side * Math.exp(loc[4 * i + 2] * SIZE_VARIANCE);
  const h = side * Math.exp(loc[4 * i + 3] * SIZE_VARIANCE);
  const points = Array.from({ length: 10 }, (_, k) =>
    (k % 2 ? cy : cx) + landm[10 * i + k] * CENTRE_VARIANCE * side);
  return { box: [x - w / 2, y - h / 2, x + w / 2, y + h / 2], points };
}

function overlap(a, b) {
  const area = ([x1, y1, x2, y2]) => Math.max(0, x2 - x1) * Math.max(0, y2 - y1);
  const shared = area([
    Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3]),
  ]);
  return shared / (area(a) + area(b) - shared);
}
