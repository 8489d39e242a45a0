// What settings are called on the page, and which family each belongs to.

export const families = ["preset", "turbo", "polar", "kivi", "plain", "kvarn", "other", "stock"];

export const familyLabels = {
  preset: "presets",
  turbo: "turbo",
  polar: "polar",
  kivi: "kivi",
  plain: "q8, f16, bf16",
  kvarn: "kvarn",
  other: "others",
  stock: "stock llama.cpp",
};

export function settingName(kv) {
  if (kv.startsWith("stock:")) return `stock ${kv.slice(6)}`;
  return kv.replace(/^kv=/, "").replaceAll(",", ", ");
}

export function isStock(kv) {
  return /^stock[: ]/.test(kv);
}

export function isPreset(kv) {
  return !isStock(kv) && !kv.includes("=");
}

export function familyOf(kv) {
  if (isStock(kv)) return "stock";
  if (isPreset(kv)) return "preset";
  const codec = /(?:^|,)(?:kv|k)=([a-z]+)/.exec(kv)?.[1];
  if (codec === "q" || codec === "f" || codec === "bf") return "plain";
  return families.includes(codec) ? codec : "other";
}
