// Lines over a context length, or bars when only one length was measured.
import { axis, base, legendHeight, logAxis, nameAxis, plus, tip } from "../chart.js";
import { tokens } from "../format.js";

const height = 380;

// What tells settings apart besides colour.
const dashes = ["solid", "dashed", "dotted"];
const symbols = ["circle", "triangle", "diamond", "roundRect"];
const stockSymbols = ["rect", plus, "diamond"];

// Colour, dash and symbol of each setting: stock in grey, ours in turn.
export function styles(settings, colours) {
  let ours = 0,
    stock = 0;
  return settings.map(({ stock: isStock }) => {
    const i = isStock ? stock++ : ours++;
    return isStock
      ? {
          colour: colours.stock,
          dash: dashes[i % dashes.length],
          symbol: stockSymbols[i % stockSymbols.length],
        }
      : {
          colour: colours.series[i % colours.series.length],
          dash: dashes[Math.floor(i / colours.series.length) % dashes.length],
          symbol: symbols[i % symbols.length],
        };
  });
}

// The presets and stock types are shown first; the rest wait in the legend when there are many.
export function firstShown(settings) {
  if (settings.length <= 8) return {};
  return Object.fromEntries(settings.map((s) => [s.name, s.preset || s.stock]));
}

export function lineSeries(name, style, data) {
  return {
    type: "line",
    name,
    data,
    symbol: style.symbol,
    symbolSize: 8,
    lineStyle: { color: style.colour, type: style.dash, width: 2 },
    itemStyle: { color: style.colour },
    connectNulls: true,
  };
}

// series: [{ name, stock, preset, points: [{ x, y }] }]; y: { name, log, text }.
export function overContext(series, x, y, colours) {
  const contexts = new Set(series.flatMap((s) => s.points.map((p) => p.x)));
  return contexts.size > 1 ? lines(series, contexts, x, y, colours) : bars(series, y, colours);
}

function lines(series, contexts, x, y, colours) {
  const look = styles(series, colours);
  const positive = series.every((s) => s.points.every((p) => p.x > 0));
  const byContext = (a, b) => a.x - b.x;
  const top = legendHeight(
    series.map((s) => s.name),
    colours.width,
  );
  const measured = [...contexts].sort((a, b) => a - b);
  const xAxis = {
    name: x,
    min: "dataMin",
    max: "dataMax",
    axisLabel: {
      color: colours.muted,
      hideOverlap: true,
      formatter: tokens,
      customValues: measured,
    },
  };
  const option = {
    ...base(colours),
    grid: { top, left: 60, right: 20, bottom: 50 },
    xAxis: axis(
      colours,
      positive ? { type: "log", logBase: 2, ...xAxis } : { type: "value", ...xAxis },
    ),
    yAxis: y.log
      ? logAxis(colours, { name: y.name, nameGap: 42 })
      : axis(colours, { type: "value", name: y.name, nameGap: 42, min: 0 }),
    series: series.map((s, i) =>
      lineSeries(
        s.name,
        look[i],
        [...s.points].sort(byContext).map((p) => [p.x, p.y]),
      ),
    ),
  };
  if (y.reference) option.series[0].markLine = reference(y.reference, colours);
  option.legend.selected = firstShown(series);
  option.tooltip.formatter = ({ seriesName, value }) =>
    tip(seriesName, [
      [x, tokens(value[0])],
      [y.name, y.text(value[1])],
    ]);
  return { option, height: height - 44 + top };
}

// A thin line across the chart with its name.
function reference({ value, name }, colours) {
  return {
    silent: true,
    symbol: "none",
    lineStyle: { color: colours.muted, type: "solid", width: 1 },
    data: [{ yAxis: value }],
    label: { formatter: name, position: "insideEndTop", color: colours.muted },
  };
}

function bars(series, y, colours) {
  const sorted = [...series].sort((a, b) => a.points[0].y - b.points[0].y);
  const values = sorted.map((s) => s.points[0].y);
  const option = {
    ...base(colours),
    legend: { show: false },
    grid: { top: 8, left: 8, right: 64, bottom: 44, containLabel: true },
    xAxis: axis(colours, { type: "value", name: y.name, min: 0 }),
    yAxis: nameAxis(
      colours,
      sorted.map((s) => s.name),
    ),
    series: [
      {
        type: "bar",
        barMaxWidth: 18,
        label: {
          show: true,
          position: "right",
          color: colours.text,
          formatter: ({ value }) => y.text(value),
        },
        data: values.map((value, i) => ({
          value,
          itemStyle: { color: sorted[i].stock ? colours.stock : colours.series[0] },
        })),
      },
    ],
  };
  option.tooltip.formatter = ({ name, value }) => tip(name, [[y.name, y.text(value)]]);
  return { option, height: 70 + 30 * sorted.length };
}
