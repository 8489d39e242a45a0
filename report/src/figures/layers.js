// The error of each layer as a heat map: settings by layers, or the heads of one setting.
import { axis, base, nameAxis, tip } from "../chart.js";
import { kld } from "../format.js";

const measures = { out_error: "attention output", k_error: "keys", v_error: "values" };
const all = "";

export const layers = {
  id: "layers",
  title: "Error by layer",
  words:
    "Where the loss arises: squared error relative to the exact result, on the model's own " +
    "queries. Attention output is what the next layer sees; an error of the keys there weighs by" +
    " where the model looks.",
  pickers: (dataset) => [
    { name: "measure", label: "Error of", options: Object.entries(measures) },
    {
      name: "setting",
      label: "Setting",
      options: [
        [all, "all, mean over heads"],
        ...withLayers(dataset).map((r) => [r.kv, `${r.name}, by head`]),
      ],
    },
  ],
  make(dataset, { measure, setting }, colours) {
    const rows = withLayers(dataset);
    if (rows.length === 0) return null;
    const one = rows.find((r) => r.kv === setting);
    const cells = (one ? headCells(one, measure) : settingCells(rows, measure)).filter((c) =>
      Number.isFinite(c.error),
    );
    if (cells.length === 0) return null;
    const sources = (one ? [one] : rows).flatMap((r) => r.sources);
    return {
      option: option(cells, colours),
      height: 130 + 26 * new Set(cells.map((c) => c.line)).size,
      columns,
      rows: cells,
      sources,
    };
  },
};

const columns = [
  { title: "setting or head", words: true, value: (c) => c.line },
  { title: "layer", value: (c) => c.layer },
  { title: "error", value: (c) => c.error, text: kld },
];

function withLayers(dataset) {
  return dataset.rows.filter((r) => r.layers?.length);
}

function settingCells(rows, measure) {
  return rows.flatMap((r) =>
    r.layers.map((l) => ({ line: r.name, layer: l.layer, error: l[measure] })),
  );
}

function headCells(row, measure) {
  return row.layers.flatMap((l) =>
    (l.heads ?? []).map((head, i) => ({
      line: `KV head ${i}`,
      layer: l.layer,
      error: head[measure],
    })),
  );
}

function option(cells, colours) {
  const lines = [...new Set(cells.map((c) => c.line))].reverse();
  const layerList = [...new Set(cells.map((c) => c.layer))].sort((a, b) => a - b);
  const logs = cells.filter((c) => c.error > 0).map((c) => Math.log10(c.error));
  const narrow = innerWidth < 600;
  const made = {
    ...base(colours),
    legend: { show: false },
    grid: { top: 8, left: 8, right: 8, bottom: 90, containLabel: true },
    xAxis: axis(colours, {
      type: "category",
      data: layerList,
      name: "layer",
      splitLine: { show: false },
    }),
    yAxis: nameAxis(colours, lines),
    visualMap: {
      min: Math.min(...logs),
      max: Math.max(...logs),
      dimension: 2,
      orient: "horizontal",
      left: "center",
      bottom: 0,
      calculable: false,
      itemHeight: narrow ? 140 : 220,
      inRange: { color: colours.scale },
      textStyle: { color: colours.muted },
      text: [kld(10 ** Math.max(...logs)), kld(10 ** Math.min(...logs))],
    },
    series: [
      {
        type: "heatmap",
        itemStyle: { borderColor: colours.panel, borderWidth: 1 },
        data: cells.map((c) => ({
          value: [String(c.layer), c.line, Math.log10(Math.max(c.error, 10 ** Math.min(...logs)))],
          cell: c,
        })),
      },
    ],
  };
  made.tooltip.formatter = ({ data }) =>
    tip(data.cell.line, [
      ["layer", String(data.cell.layer)],
      ["error", kld(data.cell.error)],
    ]);
  return made;
}
