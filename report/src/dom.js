// Elements from text: strings of a result only ever become text nodes and attributes.
import { enhanceSortableAccessibility } from "sortable-tablesort/dist/esm/enhanceSortableAccessibility.js";
import { sortableEventListener } from "sortable-tablesort/dist/esm/sortableEventListener.js";

document.addEventListener("click", sortableEventListener);

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false)
      element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

// A command that breaks between its words alone, and never behind a dash.
export function code(command) {
  const words = command.split(" ").map((word) => h("span", {}, word));
  return h(
    "code",
    {},
    words.flatMap((word, i) => (i ? [" ", word] : [word])),
  );
}

export function select(options, chosen, onchange) {
  const element = h("select", { onchange: () => onchange(element.value) });
  for (const [value, label] of options)
    element.append(h("option", { value, selected: value === chosen }, label));
  return element;
}

// A table that sorts when a heading is pressed. A column: { title, hint, value(row),
// text(value, row), note(row) }. Cells carry the exact value for sorting; `foot` rows stay below.
export function table(columns, rows, { describe = () => ({}), foot = [], ...attributes } = {}) {
  const head = columns.map((c) =>
    h("th", { scope: "col", title: c.hint, class: c.words ? "words" : null }, c.title),
  );
  const line = (row) =>
    h(
      "tr",
      describe(row),
      columns.map((column) => cell(column, row)),
    );
  const made = h(
    "table",
    { class: "sortable asc n-last", ...attributes },
    h("thead", {}, h("tr", {}, head)),
    h("tbody", {}, rows.map(line)),
    foot.length ? h("tfoot", {}, foot.map(line)) : null,
  );
  enhanceSortableAccessibility([made]);
  return h("div", { class: "scroll" }, made);
}

function cell(column, row) {
  const value = column.value(row) ?? "";
  const note = column.note?.(row);
  const text = value === "" ? "–" : column.text ? column.text(value, row) : String(value);
  return h(
    "td",
    { "data-sort": value, class: column.words ? "words" : null },
    text,
    note ? h("small", {}, note) : null,
  );
}
