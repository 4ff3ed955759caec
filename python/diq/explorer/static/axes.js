// Places of values on an axis: bins are of equal width on the screen, whatever scale cut them.

/** The share of the way along an axis at which a value lies. */
export function place(edges, value) {
  const n = edges.length - 1;
  if (value <= edges[0]) return 0;
  if (value >= edges[n]) return 1;
  let low = 0;
  let high = n;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (edges[middle] <= value) low = middle;
    else high = middle;
  }
  return (low + (value - edges[low]) / (edges[low + 1] - edges[low])) / n;
}

function at(edges, share) {
  const place = share * (edges.length - 1);
  const i = Math.min(Math.floor(place), edges.length - 2);
  return edges[i] + (place - i) * (edges[i + 1] - edges[i]);
}

/** Values to write along an axis, with their places. */
export function ticks(column, wanted) {
  const { edges, kind } = column;
  const n = edges.length - 1;
  if (kind === "strips") {
    const step = Math.ceil(n / Math.max(wanted * 2, 2));
    return edges.slice(0, -1).map((value, i) => ({ value, share: (i + 0.5) / n })).filter((_, i) => i % step === 0);
  }
  if (n === 1) return [{ value: edges[0], share: 0.5 }];
  if (kind === "linear") {
    const span = edges[n] - edges[0];
    const power = 10 ** Math.floor(Math.log10(span / wanted));
    const step = [1, 2, 5, 10].map((one) => one * power).find((one) => span / one <= wanted + 2);
    if (!Number.isFinite(span) || !step) return [];
    const found = [];
    for (let i = Math.ceil(edges[0] / step); i * step <= edges[n]; i += 1) {
      const value = Number((i * step).toPrecision(12));
      found.push({ value, share: place(edges, value) });
    }
    return found;
  }
  if (kind === "symlog") return apart(edges, wanted);
  return Array.from({ length: wanted + 1 }, (_, i) => ({ value: at(edges, i / wanted), share: i / wanted }));
}

/** Zero and powers of ten, the largest first, as far as they are apart enough to be read. */
function apart(edges, wanted) {
  const n = edges.length - 1;
  const candidates = [0];
  for (let power = Math.ceil(Math.log10(Math.max(Math.abs(edges[0]), Math.abs(edges[n])))); candidates.length < 120; power -= 1) {
    for (const first of [1, 3]) candidates.push(Number(`${first}e${power}`), Number(`-${first}e${power}`));
  }
  const found = [];
  for (const value of candidates) {
    if (value < edges[0] || value > edges[n]) continue;
    const share = place(edges, value);
    if (found.every((one) => Math.abs(one.share - share) > 0.45 / wanted)) found.push({ value, share });
  }
  return found.sort((one, other) => one.share - other.share);
}

/** The filter of some bins: values from the first one's least to below the last one's end; open at the ends. */
export function filterOf(column, first, last) {
  const n = column.edges.length - 1;
  return { low: first <= 0 ? null : column.edges[first], high: last >= n - 1 ? null : column.edges[last + 1] };
}

export function colours() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(
    ["paper", "raised", "ink", "quiet", "line", "accent", "pale", "q1", "q2", "q3", "q4"].map((name) => [
      name,
      style.getPropertyValue(`--${name}`).trim(),
    ]),
  );
}

/** A canvas as sharp as the screen; the context draws in CSS pixels. */
export function prepared(canvas) {
  const { width, height } = canvas.getBoundingClientRect();
  const ratio = window.devicePixelRatio || 1;
  const [wide, high] = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
  if (canvas.width !== wide || canvas.height !== high) {
    canvas.width = wide;
    canvas.height = high;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = "11px system-ui, sans-serif";
  return { context, width, height };
}
