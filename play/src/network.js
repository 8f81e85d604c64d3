// The network, in plain JavaScript: the same layers as `Blaze` in blaze_utils/detector/model.py,
// under the same names, with the weights of the float ONNX file. No runtime, no WebAssembly.
// A feature map is { channels, height, width, data }: channel after channel, row after row.

// [name, stride, double]: a single block has one pair of convolutions, a double one has two.
const BLOCKS = [
  ["conv2", 1, false], ["conv3", 1, false], ["conv4", 2, false],
  ["conv5", 1, false], ["conv6", 1, false], ["conv7", 2, true],
  ["conv8", 1, true], ["conv9", 1, true], ["conv10", 2, true],
  ["conv11", 1, true], ["conv12", 1, true],
];
const VALUES = { loc: 4, conf: 2, landm: 10 }; // a prior box

export class Network {
  // model: the bytes of the ONNX file; table: where in it the weights lie, and what calibration
  // has found for each output (see play/build.py).
  constructor(model, table) {
    this.table = table;
    this.layers = {};
    const floats = (offset, count) => new Float32Array(model.slice(offset, offset + 4 * count));
    for (const [name, { shape, weight, bias, ...rest }] of Object.entries(table.layers)) {
      const count = shape.reduce((product, side) => product * side);
      const weights = floats(weight, count), biases = floats(bias, shape[0]);
      this.layers[name] = { shape, weights, biases, ...rest };
    }
  }

  // The outputs loc, conf and landm for an image (a feature map of three channels, already reduced
  // by the mean). `how` says how to quantize every activation, see `quantize`; without it: float.
  run(image, how) {
    this.how = how;
    this.tally = { values: 0, low: 0, high: 0 };
    const copy = { ...image, data: image.data.slice() };
    let x = this.layer("conv1.0", this.quantized(copy, this.table.input), 2, true);
    const features = [];
    for (const [name, stride, double] of BLOCKS) {
      x = this.block(name, x, stride, double);
      if (name === "conv9" || name === "conv12") features.push(x); // strides 8 and 16
    }
    const outputs = {};
    for (const [head, values] of Object.entries(VALUES))
      outputs[head] = join(features.map((feature, level) => this.head(`${head}.${level}`, feature)), values);
    return outputs;
  }

  block(name, x, stride, double) {
    let h = this.pair(`${name}.conv.0`, x, stride);
    if (double) h = this.pair(`${name}.conv.2`, rectify(h), 1);
    if (double) rectify(h);
    const shortcut = stride === 2 ? this.layer(`${name}.shortcut.1`, halve(x), 1, true) : x;
    for (let i = 0; i < h.data.length; i++) h.data[i] += shortcut.data[i];
    return this.quantized(rectify(h), this.table.sums[name]);
  }

  pair(name, x, stride) {
    return this.layer(`${name}.3`, this.layer(`${name}.0`, x, stride, true));
  }

  head(name, x) {
    return this.layer(`${name}.2`, this.layer(`${name}.0`, x, 1, true));
  }

  // A convolution with the batch norm behind it, and a ReLU. In float the norm is folded into the
  // weights. To quantize what lies between the two, it is undone there and applied again.
  layer(name, x, stride = 1, relu = false) {
    const layer = this.layers[name], y = convolve(x, layer, stride);
    if (this.how && layer.norm) {
      affine(y, layer.norm.gain.map((gain) => 1 / gain), layer.norm.shift.map((shift, i) => -shift / layer.norm.gain[i]));
      this.quantized(y, layer.output);
      affine(y, layer.norm.gain, layer.norm.shift);
      this.quantized(y, layer.norm.output);
    } else this.quantized(y, layer.output);
    return relu ? rectify(y) : y;
  }

  quantized(map, calibrated) {
    if (this.how) quantize(map.data, calibrated, this.how, this.tally);
    return map;
  }
}

// Quantize numbers to 8 bits and back, in place, as the article's int8 model does to every output.
//   how.calibrated  each output has the scale and zero point of its calibration; else scale 1
//   how.share       0: the zero point is 0; 1: it is where it belongs, which is what calibration
//                   has found, and with scale 1 the middle, 128
//   how.round, how.clip   whether to round to integers, and to keep to 0 … 255
export function quantize(data, [scale, zeroPoint], how, tally) {
  const step = how.calibrated ? scale : 1;
  const zero = Math.round(how.share * (how.calibrated ? zeroPoint : 128));
  for (let i = 0; i < data.length; i++) {
    let q = data[i] / step + zero;
    if (how.round) q = Math.round(q);
    if (how.clip && q < 0) { q = 0; tally.low++; }
    if (how.clip && q > 255) { q = 255; tally.high++; }
    data[i] = (q - zero) * step;
  }
  tally.values += data.length;
}

function affine({ channels, data }, gain, shift) {
  const size = data.length / channels;
  for (let c = 0; c < channels; c++)
    for (let i = c * size; i < (c + 1) * size; i++) data[i] = gain[c] * data[i] + shift[c];
}

function rectify(map) {
  for (let i = 0; i < map.data.length; i++) if (map.data[i] < 0) map.data[i] = 0;
  return map;
}

// Max pooling over 2x2.
function halve({ channels, height, width, data }) {
  const half = { channels, height: height >> 1, width: width >> 1 };
  half.data = new Float32Array(channels * half.height * half.width);
  let o = 0;
  for (let row = 0; row < channels * height; row += 2)
    for (let x = 0, i = row * width; x < half.width; x++, i += 2)
      half.data[o++] = Math.max(data[i], data[i + 1], data[i + width], data[i + width + 1]);
  return half;
}

// The maps of a head at both strides as one list, one row a prior box.
function join(maps, values) {
  const parts = maps.map(({ channels, data }) => {
    const size = data.length / channels, rows = new Float32Array(data.length);
    for (let c = 0; c < channels; c++)
      for (let i = 0; i < size; i++) rows[i * channels + c] = data[c * size + i];
    return rows;
  });
  const all = new Float32Array(parts[0].length + parts[1].length);
  all.set(parts[0]);
  all.set(parts[1], parts[0].length);
  if (all.length % values) throw new Error("a head has a wrong number of values");
  return all;
}

function pad({ channels, height, width, data }, by) {
  const wide = { channels, height: height + 2 * by, width: width + 2 * by };
  wide.data = new Float32Array(channels * wide.height * wide.width);
  for (let c = 0; c < channels; c++)
    for (let y = 0; y < height; y++) {
      const from = (c * height + y) * width;
      wide.data.set(data.subarray(from, from + width), (c * wide.height + y + by) * wide.width + by);
    }
  return wide;
}

// A convolution that keeps the size (divided by the stride), over all channels or depthwise.
function convolve(x, { shape, weights, biases }, stride) {
  const [channels, , kernel] = shape;
  const height = x.height / stride, width = x.width / stride, size = height * width;
  const y = { channels, height, width, data: new Float32Array(channels * size) };
  for (let o = 0; o < channels; o++) y.data.fill(biases[o], o * size, (o + 1) * size);
  if (kernel === 1) pointwise(x, y, weights);
  else spatial(pad(x, kernel >> 1), y, weights, shape, stride);
  return y;
}

// Four input channels at a time: y is read and written a quarter as often.
function pointwise(x, y, weights) {
  const size = x.height * x.width;
  if (x.channels % 4) throw new Error("the number of channels is not a multiple of 4");
  for (let o = 0; o < y.channels; o++) {
    const out = y.data.subarray(o * size, (o + 1) * size);
    for (let c = 0; c < x.channels; c += 4) {
      const [w0, w1, w2, w3] = weights.subarray(o * x.channels + c);
      const [a, b, d, e] = [0, 1, 2, 3].map((k) => x.data.subarray((c + k) * size, (c + k + 1) * size));
      for (let i = 0; i < size; i++) out[i] += w0 * a[i] + w1 * b[i] + w2 * d[i] + w3 * e[i];
    }
  }
}

function spatial(x, y, weights, [channels, inputs, kernel], stride) {
  const addRow = kernel === 5 ? addRow5 : addRow3;
  const depthwise = inputs === 1;
  for (let o = 0; o < channels; o++)
    for (let c = 0; c < inputs; c++)
      for (let row = 0; row < y.height; row++)
        for (let k = 0; k < kernel; k++) {
          const from = (((depthwise ? o : c) * x.height + row * stride + k) * x.width) | 0;
          const w = ((o * inputs + c) * kernel + k) * kernel;
          addRow(y.data, (o * y.height + row) * y.width, y.width, x.data, from, stride, weights, w);
        }
}

function addRow5(out, o, count, x, i, stride, weights, w) {
  const a = weights[w], b = weights[w + 1], c = weights[w + 2], d = weights[w + 3], e = weights[w + 4];
  for (let end = o + count; o < end; o++, i += stride)
    out[o] += a * x[i] + b * x[i + 1] + c * x[i + 2] + d * x[i + 3] + e * x[i + 4];
}

function addRow3(out, o, count, x, i, stride, weights, w) {
  const a = weights[w], b = weights[w + 1], c = weights[w + 2];
  for (let end = o + count; o < end; o++, i += stride)
    out[o] += a * x[i] + b * x[i + 1] + c * x[i + 2];
}
