// MiniGPT in the page: the model that minigpt.py trains, in plain JavaScript.
// Generated from book/20_in_the_page.md: edit that, then run
// `python book/_tools/tangle.py`. Names and order are those of minigpt.py, and
// so is the alphabet: T time, C channels, H heads, D head size, V vocabulary.

// 20. In the page (book/20_in_the_page.md) ------------------------------------

const minigpt = (function program() { "use strict";
class MiniGPTError extends Error {} // something that the user can put right

function require(condition, message) {
  if (!condition) throw new MiniGPTError(message);
}

const PAD = 0, EOS = 1, UNK = 2, SPECIAL_TOKENS = 3;

function Tokenizer(characters) {
  const known = [...characters];
  const to_id = new Map(known.map((c, i) => [c, SPECIAL_TOKENS + i]));
  const encode = (text) => Array.from(text, (c, i) => {
    require(to_id.has(c), `the model does not know ${JSON.stringify(c)} at `
      + `position ${i}: remove it, or train on it`);
    return to_id.get(c);
  });
  const decode = (ids) => Array.from(ids, (id) =>
    id === UNK ? "\ufffd" : known[id - SPECIAL_TOKENS] ?? "").join("");
  return { encode, decode, vocab_size: SPECIAL_TOKENS + known.length };
}

const add = (x, y) => x.map((number, c) => number + y[c]);
function Embeddings({ vocab_size, context_length, d_model: C }, take) {
  const tokens = take("token_embedding.weight", vocab_size, C);
  const positions = take("position_embedding.weight", context_length, C);
  const row = (matrix, r) => matrix.subarray(r * C, (r + 1) * C);
  return (id, position) => add(row(tokens, id), row(positions, position));
}

function softmax(z) {
  const best = z.reduce((a, b) => Math.max(a, b));
  const powers = z.map((number) => Math.exp(number - best));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

function attention(q, k, v, watch) { // (D), (T, D), (T, D) -> (D)
  const D = q.length, y = new Float32Array(D);
  const scores = new Float64Array(k.length / D);
  for (let t = 0; t < scores.length; t++) {
    for (let d = 0; d < D; d++) scores[t] += q[d] * k[t * D + d];
  }
  const weights = watch(softmax(scores.map((sum) => sum / Math.sqrt(D))));
  for (let t = 0; t < scores.length; t++) {
    for (let d = 0; d < D; d++) y[d] += weights[t] * v[t * D + d];
  }
  return y;
}

function multiply(weight, x) { // (R, C), (C) -> (R)
  const C = x.length, R = weight.length / C, y = new Float32Array(R);
  for (let start = 0; start < R; start += 8) {
    const row = Math.max(0, Math.min(start, R - 8));
    let a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0;
    for (let n = 0, i = row * C; n < C; n++, i++) {
      const number = x[n];
      a += weight[i] * number;
      b += weight[i + C] * number;
      c += weight[i + 2 * C] * number;
      d += weight[i + 3 * C] * number;
      e += weight[i + 4 * C] * number;
      f += weight[i + 5 * C] * number;
      g += weight[i + 6 * C] * number;
      h += weight[i + 7 * C] * number;
    }
    y.set([a, b, c, d, e, f, g, h].slice(0, R), row);
  }
  return y;
}

function Linear(C, R, take) { // (C) -> (R)
  const weight = take("weight", R, C), bias = take("bias", R);
  return (x) => add(multiply(weight, x), bias);
}

const within = (take, part) => (name, ...shape) =>
  take(`${part}.${name}`, ...shape);
function MultiHeadAttention({ d_model: C, n_heads: H }, take) {
  const qkv = Linear(C, 3 * C, within(take, "qkv")), D = C / H;
  const proj = Linear(C, C, within(take, "proj"));
  return (x, remember) => { // (C) -> (C); `remember` adds past, watch
    const all = qkv(x), y = new Float32Array(C);
    for (let h = 0; h < H; h++) {
      const [q, k, v] = [0, C, 2 * C].map(
        (start) => all.subarray(start + h * D, start + (h + 1) * D));
      y.set(attention(q, ...remember(h, k, v)), h * D);
    }
    return proj(y);
  };
}

function LayerNorm(C, take) { // (C) -> (C)
  const weight = take("weight", C), bias = take("bias", C);
  return (x) => {
    let mean = 0, variance = 0;
    for (const number of x) mean += number / C;
    for (const number of x) variance += (number - mean) ** 2 / C;
    const scale = 1 / Math.sqrt(variance + 1e-5);
    return x.map((number, c) => (number - mean) * scale * weight[c] + bias[c]);
  };
}

const gelu = (x) =>
  x / (1 + Math.exp(-Math.sqrt(8 / Math.PI) * (x + 0.044715 * x * x * x)));

function MLP({ d_model: C, d_ff }, take) { // (C) -> (C)
  const expand = Linear(C, d_ff, within(take, "expand"));
  const proj = Linear(d_ff, C, within(take, "proj"));
  return (x) => proj(expand(x).map(gelu));
}

function Block(config, take) { // (C) -> (C)
  const norm1 = LayerNorm(config.d_model, within(take, "norm1"));
  const attend = MultiHeadAttention(config, within(take, "attention"));
  const norm2 = LayerNorm(config.d_model, within(take, "norm2"));
  const mlp = MLP(config, within(take, "mlp"));
  return (x, remember) => {
    x = add(x, attend(norm1(x), remember));
    return add(x, mlp(norm2(x)));
  };
}

function MiniGPT(config, take) { // `take` gives a tensor, by name and shape
  const { n_layers, d_model: C, vocab_size: V } = config;
  const embed = Embeddings(config, within(take, "embeddings"));
  const blocks = Array.from({ length: n_layers },
    (_, i) => Block(config, within(take, `blocks.${i}`)));
  const norm = LayerNorm(C, within(take, "norm"));
  const head = take("head.weight", V, C);
  const forward = (id, cache, watch = (i, h, w) => w) => { // -> logits (V)
    let x = embed(id, cache.length);
    blocks.forEach((block, i) => {
      x = block(x, (h, ...kv) => [...cache.append(i, h, ...kv),
        (weights) => watch(i, h, weights)]);
    });
    cache.length += 1;
    return multiply(head, norm(x));
  };
  return { config, forward };
}

function distribution(logits, config) { // (V) -> (V)
  const { temperature: tau = 0.8, top_k = 0, top_p = 1 } = config;
  const best = Math.max(...logits), p = new Float64Array(logits.length);
  const ranked = [...logits.keys()].sort((a, b) => logits[b] - logits[a]);
  const kept = ranked.slice(0, tau === 0 ? 1 : top_k || p.length);
  const shares = softmax(kept.map((id) => (logits[id] - best) / (tau || 1)));
  let sum = 0;
  for (let i = 0; i < kept.length && sum < top_p; i++) {
    sum += p[kept[i]] = shares[i];
  }
  return p.map((share) => share / sum);
}

function choose(logits, config, random) { // -> the id of a token
  let left = random(), chosen;
  distribution(logits, config).forEach((share, id) => {
    if (share > 0 && !(left < 0)) [chosen, left] = [id, left - share];
  });
  return chosen;
}

const generator = (seed) => () => { // random numbers from 0, below 1
  seed = seed + 0x6d2b79f5 | 0;
  let t = Math.imul(seed ^ seed >>> 15, seed | 1);
  t ^= t + Math.imul(t ^ t >>> 7, t | 61);
  return ((t ^ t >>> 14) >>> 0) / 2 ** 32;
};

function window_start(n, context_length) {
  const half = Math.floor(context_length / 2);
  return Math.max(0, Math.ceil((n - context_length) / half)) * half;
}

const uncached = (model) => (text) => cached(model)(text);
function* generate(next_logits, ids, config = {}) { // yields ids
  const { max_new_tokens = 500, min_new_tokens = 0, seed = 0 } = config;
  const text = [...ids], random = generator(seed);
  for (let i = 0; i < max_new_tokens; i++) {
    const logits = next_logits(text);
    logits[PAD] = logits[UNK] = -Infinity;
    if (i < min_new_tokens) logits[EOS] = -Infinity;
    const chosen = choose(logits, config, random);
    if (chosen === EOS) return;
    yield chosen;
    text.push(chosen);
  }
}

const KINDS = { F32: "float32", BF16: "bfloat16", I8: "int8" };
function float32(bytes, kind) { // numbers of any kind as a Float32Array
  if (kind === "F32") return new Float32Array(bytes);
  if (kind === "I8") return new Float32Array(new Int8Array(bytes));
  const bits = new Uint32Array(new Uint16Array(bytes));
  return new Float32Array(bits.map((half) => half << 16).buffer);
}

function read_safetensors(buffer) { // -> our metadata, forms, bytes of a name
  const start = 8 + Number(new DataView(buffer).getBigUint64(0, true));
  const text = new TextDecoder().decode(buffer.slice(8, start));
  const { __metadata__: { minigpt }, ...forms } = JSON.parse(text);
  const bytes = (name) => buffer.slice(
    ...forms[name].data_offsets.map((offset) => start + offset));
  return [minigpt, forms, bytes];
}

async function digest(metadata, forms, bytes) { // as chapter 13 takes it
  const names = Object.keys(forms).sort();
  const form = ({ dtype, shape }) =>
    `["torch.${KINDS[dtype]}", ${shape.join(", ")}]`;
  const all = names.map((name) => `"${name}": ${form(forms[name])}`);
  const text = `[${metadata}, {${all.join(", ")}}]`;
  const data = await new Blob([text, ...names.map(bytes)]).arrayBuffer();
  const sha256 = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  return Array.from(sha256, (b) => b.toString(16).padStart(2, "0")).join("");
}

const FORMAT = 2, MOST = 40e6; // numbers in a model
async function load_checkpoint(buffer) { // MiniGPTError says why not
  let text, forms, bytes, meta;
  try {
    [text, forms, bytes] = read_safetensors(buffer);
    meta = JSON.parse(text);
  } catch {
    require(false, "this is no MiniGPT checkpoint: choose best.safetensors");
  }
  const { format, tokenizer = "characters", sha256, before, step } = meta;
  require(format === FORMAT, `format ${format} is not known: reload the page`);
  require(tokenizer === "characters", "this model has a tokenizer of the kind "
    + `${tokenizer}, not ours: use gpt2.py generate`);
  const size = Object.entries(forms).reduce((sum, [name, { shape }]) => sum
    + name.startsWith("model.") * shape.reduce((a, b) => a * b), 0);
  require(size <= MOST, `this model has ${size.toLocaleString("en")} numbers, `
    + `over ${MOST.toLocaleString("en")}: use minigpt.py generate`);
  const take = (name, ...shape) => {
    const { dtype, shape: found } = forms[`model.${name}`] ?? {};
    require(`${found}` === `${shape}`, `${name} is ${found}, not ${shape}`);
    const numbers = float32(bytes(`model.${name}`), dtype);
    if (dtype !== "I8") return numbers;
    const scale = float32(bytes(`scale.${name}`), "F32"); // one for each row
    return numbers.map((number, i) => number * scale[Math.floor(i / shape[1])]);
  };
  try {
    const rest = text.replace(/"sha256": "\w+", /, "");
    require(!crypto.subtle || sha256 === await digest(rest, forms, bytes),
      "wrong sha256");
    const model = MiniGPT(meta.model, take);
    return { model, tokenizer: Tokenizer(meta.characters), before, step };
  } catch ({ message }) {
    require(false, `this checkpoint is damaged (${message}): copy it again`);
  }
}

function KVCache({ n_layers, n_heads, context_length: T, d_model: C }) {
  const buffers = Array.from({ length: 2 * n_layers * n_heads },
    () => new Float32Array(T * C / n_heads)); // (T, D) each
  return {
    length: 0, // positions read; the model counts them
    append(layer, head, ...vectors) { // add k and v (D); all so far, (T, D)
      return vectors.map((vector, i) => {
        const buffer = buffers[2 * (layer * n_heads + head) + i];
        buffer.set(vector, this.length * vector.length);
        return buffer.subarray(0, (this.length + 1) * vector.length);
      });
    },
  };
}

function cached(model) { // text (n) -> next logits (V), reading what is new
  let cache, start;
  return (text) => {
    const begin = window_start(text.length, model.config.context_length);
    if (begin !== start) [cache, start] = [KVCache(model.config), begin];
    const unread = text.slice(start + cache.length);
    return unread.map((id) => model.forward(id, cache)).at(-1);
  };
}

function steps({ model, tokenizer, before }, prompt, settings) { // of ids
  const ids = [...before, ...tokenizer.encode(prompt)];
  return generate(cached(model), ids.length ? ids : [EOS], settings);
}

function unpack(text) { // base64 of what gzip has packed -> bytes
  const letters = atob(text), packed = new Uint8Array(letters.length);
  for (let i = 0; i < packed.length; i++) packed[i] = letters.charCodeAt(i);
  const { body } = new Response(packed);
  return new Response(body.pipeThrough(new DecompressionStream("gzip")))
    .arrayBuffer();
}

function serve(scope, more) { // in a worker: do what it is asked, and answer
  let saved, writing;
  const calls = { ...more(() => saved),
    async load(data) { // bytes of a checkpoint, or a text that unpacks to it
      const bytes = typeof data === "string" ? await unpack(data) : data;
      saved = await load_checkpoint(bytes);
      return { config: saved.model.config, step: saved.step };
    },
    begin(prompt, settings) { writing = steps(saved, prompt, settings); },
    next: () => saved.tokenizer.decode([writing.next().value ?? EOS]),
  };
  scope.onmessage = async ({ data: [call, ...given], ports: [port] }) => {
    try {
      port.postMessage([await calls[call](...given)]);
    } catch ({ message }) {
      port.postMessage([null, message]);
    }
  };
}

function start_worker(more = () => ({})) { // -> ask(call, ...given), a promise
  const source = new Blob([`(minigpt = (${program})()).serve(self, ${more})`]);
  const worker = new Worker(URL.createObjectURL(source));
  return (...call) => new Promise((resolve, reject) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = ({ data: [answer, error] }) => {
      port1.close();
      if (error) reject(new MiniGPTError(error)); else resolve(answer);
    };
    worker.postMessage(call, [port2]);
  });
}

function fetch_weights(address) { // -> a text for load, from a folder, too
  return new Promise((resolve, reject) => {
    minigpt.weights = resolve; // what the file at this address calls
    const script = document.createElement("script");
    script.src = address;
    script.onerror = () => reject(new MiniGPTError(
      `${address} does not load: is it beside the page, or are you offline?`));
    document.head.append(script);
  });
}

return { distribution, choose, generator, generate, uncached, cached, steps,
  window_start, KVCache, load_checkpoint, serve, start_worker, fetch_weights };
})();


// tangled: bf3db714c842b75235aef59e029744ac0c869bdf2b4d88e13bc6d532811aea8e
