// Numbers as text; a value that was not measured never comes here.

export function kld(value) {
  if (value === 0) return "0";
  return Math.abs(value) < 1e-4 ? value.toExponential(1) : value.toPrecision(3);
}

// The same in a sentence, without the digits that only a table needs.
export function roughKld(value) {
  return value < 1e-4 && value > 0 ? value.toExponential(0) : String(Number(value.toPrecision(2)));
}

export function fixed(digits) {
  return (value) => value.toFixed(digits);
}

export function percent(value) {
  const text = (100 * value).toFixed(2);
  return `${text.endsWith(".00") ? text.slice(0, -3) : text}%`;
}

export function signedPercent(value) {
  const text = (100 * value).toFixed(2);
  return `${value > 0 ? "+" : ""}${text}%`.replace("-", "−");
}

export function mib(value) {
  if (value >= 1024) return `${(value / 1024).toFixed(value >= 10240 ? 1 : 2)} GiB`;
  return `${value.toFixed(value < 10 ? 2 : 1)} MiB`;
}

export function times(value) {
  return `${value.toFixed(value < 10 ? 2 : 1)}×`;
}

export function roughTimes(value) {
  return `${value.toFixed(value < 1.5 ? 2 : value < 20 ? 1 : 0)}×`;
}

export function count(value) {
  return Math.round(value).toLocaleString("en-GB");
}

export function tokens(value) {
  if (value >= 1024 && value % 1024 === 0) return `${value / 1024}K`;
  return value.toLocaleString("en-GB");
}

export function range(interval, text) {
  return interval?.length === 2 && interval.every(Number.isFinite)
    ? `${text(interval[0])} to ${text(interval[1])}`
    : null;
}

export function date(iso) {
  return iso ? iso.replace("T", " ").replace(/:\d\dZ$/, " UTC") : null;
}
