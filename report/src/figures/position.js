// How the error grows along the context.
import { axis, base, floorLine, legendHeight, logAxis, tip } from "../chart.js";
import { kld, percent, tokens } from "../format.js";
import { floorNote } from "./quality.js";
import { firstShown, lineSeries, styles } from "./lines.js";

const measures = {
  kld_mean: { label: "KLD", name: "KLD from f16", log: true, text: kld },
  same_top1: { label: "same top token", name: "same top token", log: false, text: percent },
};

export const position = {
  id: "position",
  title: "Error by position",
  words:
    "Errors can grow with depth, for a token far in reads more coded rows. Mean over the tokens " +
    "of each part of the context.",
  pickers: () => [
    {
      name: "measure",
      label: "Measure",
      options: Object.entries(measures).map(([key, m]) => [key, m.label]),
    },
  ],
  make(dataset, picked, colours) {
    const settings = dataset.rows.filter((r) => r.by_position?.length);
    if (settings.length === 0) return null;
    const measure = measures[picked.measure];
    const rows = settings
      .flatMap((r) =>
        r.by_position.map((b) => ({ ...b, setting: r.name, value: b[picked.measure] })),
      )
      .filter((b) => Number.isFinite(b.value));
    return {
      ...chart(settings, rows, measure, dataset.floor?.[picked.measure], colours),
      columns: columns(measure),
      rows,
      sources: settings.flatMap((r) => r.sources),
      note: floorNote(dataset, settings),
    };
  },
};

function columns(measure) {
  return [
    { title: "setting", words: true, value: (b) => b.setting },
    { title: "from token", value: (b) => b.first },
    { title: "to", value: (b) => b.last },
    { title: "tokens", value: (b) => b.n },
    { title: measure.name, value: (b) => b.value, text: measure.text },
  ];
}

function chart(settings, rows, measure, floor, colours) {
  const look = styles(settings, colours);
  const parts = [...new Set(rows.map((b) => b.first))].sort((a, b) => a - b);
  const top = legendHeight(
    settings.map((s) => s.name),
    colours.width,
  );
  const valueAt = (setting, first) => {
    const value = rows.find((b) => b.setting === setting.name && b.first === first)?.value;
    return measure.log && !(value > 0) ? null : (value ?? null);
  };
  const option = {
    ...base(colours),
    grid: { top, left: 66, right: 20, bottom: 50 },
    xAxis: axis(colours, {
      type: "category",
      boundaryGap: false,
      name: "position in the context, from token",
      data: parts.map(tokens),
    }),
    yAxis: measure.log
      ? logAxis(colours, { name: measure.name, nameGap: 48 })
      : axis(colours, {
          type: "value",
          name: measure.name,
          nameGap: 48,
          scale: true,
          axisLabel: { color: colours.muted, formatter: percent },
        }),
    series: settings.map((s, i) =>
      lineSeries(
        s.name,
        look[i],
        parts.map((first) => valueAt(s, first)),
      ),
    ),
  };
  if (floor > 0) option.series.push(floorLine(floor, colours));
  option.legend.selected = firstShown(settings);
  option.legend.data = settings.map((s) => s.name);
  option.tooltip.formatter = ({ seriesName, name, value }) =>
    tip(seriesName, [
      ["from token", name],
      [measure.name, measure.text(value)],
    ]);
  return { option, height: 340 + top };
}
