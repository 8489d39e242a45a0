// Light and dark: the system's choice until the button is pressed. Colours live in style.css alone.

const key = "tightkv-theme";
const dark = matchMedia("(prefers-color-scheme: dark)");

function stored() {
  try {
    return localStorage.getItem(key);
  } catch {
    return null; // a page from a file may have no storage
  }
}

function store(theme) {
  try {
    localStorage.setItem(key, theme);
  } catch {
    // the choice then lasts as long as the page
  }
}

function current() {
  return document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
}

export function startTheme(button, redraw) {
  const show = () => {
    button.textContent = current() === "dark" ? "Light" : "Dark";
    redraw();
  };
  if (stored()) document.documentElement.dataset.theme = stored();
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = current() === "dark" ? "light" : "dark";
    store(current());
    show();
  });
  dark.addEventListener("change", show);
  show();
}

export function colours() {
  const style = getComputedStyle(document.documentElement);
  const get = (name) => style.getPropertyValue(`--${name}`).trim();
  return {
    font: getComputedStyle(document.body).fontFamily,
    text: get("text"),
    muted: get("muted"),
    line: get("line"),
    panel: get("panel"),
    series: [1, 2, 3, 4, 5, 6, 7].map((i) => get(`series-${i}`)),
    stock: get("stock"),
    accent: get("accent"),
    scale: [1, 2, 3, 4, 5, 6].map((i) => get(`scale-${i}`)),
  };
}
