// Apache ECharts with what the figures need and no more.
import { BarChart, CustomChart, HeatmapChart, LineChart, ScatterChart } from "echarts/charts";
import {
  AriaComponent,
  GridComponent,
  LegendComponent,
  MarkAreaComponent,
  MarkLineComponent,
  TooltipComponent,
  VisualMapComponent,
} from "echarts/components";
import * as echarts from "echarts/core";
import { LabelLayout } from "echarts/features";
import { SVGRenderer } from "echarts/renderers";
import { h } from "./dom.js";

echarts.use([
  BarChart,
  CustomChart,
  HeatmapChart,
  LineChart,
  ScatterChart,
  AriaComponent,
  GridComponent,
  LegendComponent,
  MarkAreaComponent,
  MarkLineComponent,
  TooltipComponent,
  VisualMapComponent,
  LabelLayout,
  SVGRenderer,
]);

export function draw(element, option, height) {
  element.style.height = `${height}px`;
  const chart =
    echarts.getInstanceByDom(element) ?? echarts.init(element, null, { renderer: "svg" });
  chart.resize();
  chart.setOption(option, { notMerge: true });
}

export function resizeAll() {
  for (const element of document.querySelectorAll(".chart"))
    echarts.getInstanceByDom(element)?.resize();
}

// What every chart has in common. Tooltips are elements, so that no string of a result is read as
// HTML.
export function base(colours) {
  return {
    animation: false,
    aria: { enabled: true },
    textStyle: { fontFamily: colours.font, color: colours.text },
    tooltip: {
      confine: true,
      backgroundColor: colours.panel,
      borderColor: colours.line,
      textStyle: { color: colours.text, fontSize: 13 },
    },
    legend: {
      type: "plain",
      top: 0,
      left: 0,
      textStyle: { color: colours.text },
      inactiveColor: colours.line,
      itemGap: 14,
    },
  };
}

export function axis(colours, more) {
  return {
    nameLocation: "middle",
    nameGap: 32,
    nameTextStyle: { color: colours.muted, fontSize: 13 },
    axisLine: { show: true, lineStyle: { color: colours.line } },
    axisTick: { show: false },
    axisLabel: { color: colours.muted, hideOverlap: true },
    splitLine: { lineStyle: { color: colours.line, opacity: 0.6 } },
    ...more,
  };
}

// The height that a legend of these names takes, for it has no layout of its own with the grid
// below.
export function legendHeight(names, width) {
  let rows = 1,
    used = 0;
  for (const name of names) {
    const entry = 48 + 7 * name.length;
    if (used > 0 && used + entry > width) {
      rows++;
      used = 0;
    }
    used += entry;
  }
  return 12 + 24 * rows;
}

// A logarithmic axis that finds its own decades, as the legend switches lines on and off.
export function logAxis(colours, more) {
  const formatter = (v) =>
    v < 1e-3 ? v.toExponential(0) : v.toLocaleString("en-GB", { maximumFractionDigits: 3 });
  return axis(colours, {
    type: "log",
    ...more,
    axisLabel: { color: colours.muted, hideOverlap: true, formatter },
  });
}

// Names along the side: whole ones, on two lines where the page is narrow.
export function nameAxis(colours, names, more) {
  const narrow = colours.width < 560;
  return axis(colours, {
    type: "category",
    data: names,
    splitLine: { show: false },
    ...more,
    axisLabel: {
      color: colours.text,
      width: narrow ? 96 : 190,
      overflow: "break",
      fontSize: narrow ? 11 : 12,
      lineHeight: 13,
    },
  });
}

// Whole decades around the values, for a logarithmic axis.
export function decades(values) {
  const logs = values.filter((v) => v > 0).map(Math.log10);
  if (logs.length === 0) return { min: 0.1, max: 1 };
  const min = Math.floor(Math.min(...logs));
  return { min: 10 ** min, max: 10 ** Math.max(min + 1, Math.ceil(Math.max(...logs))) };
}

export function tip(title, lines) {
  const rows = lines.filter(([, text]) => text !== null && text !== undefined);
  return h(
    "div",
    { class: "tip" },
    h("strong", {}, title),
    rows.map(([label, text]) => h("div", {}, h("span", {}, label), h("b", {}, text))),
  );
}

// The noise floor across a chart; with `bottom` what lies under it is shaded.
export function floorLine(floor, colours, bottom) {
  const shaded = [[{ yAxis: bottom }, { yAxis: floor }]];
  return {
    type: "line",
    silent: true,
    data: [],
    z: 2,
    tooltip: { show: false },
    markLine: {
      silent: true,
      symbol: "none",
      precision: 20, // markers are rounded to 2 digits otherwise
      lineStyle: { color: colours.muted, type: "dashed" },
      data: [{ yAxis: floor }],
      label: { formatter: "noise floor", position: "insideEndTop", color: colours.muted },
    },
    markArea: {
      silent: true,
      itemStyle: { color: colours.muted, opacity: 0.08 },
      data: bottom === undefined ? [] : shaded,
    },
  };
}

export const plus = "path://M-5,-1.5H-1.5V-5H1.5V-1.5H5V1.5H1.5V5H-1.5V1.5H-5Z";

// Vertical bars from low to high with caps: data are [x, low, high] with a colour each.
export function errorBars(points) {
  return {
    type: "custom",
    silent: true,
    z: 1,
    tooltip: { show: false },
    data: points.map((p) => [p.x, p.low, p.high]),
    renderItem(params, api) {
      const [x, low] = api.coord([api.value(0), api.value(1)]);
      const high = api.coord([api.value(0), api.value(2)])[1];
      const line = (x1, y1, x2, y2) => ({
        type: "line",
        shape: { x1, y1, x2, y2 },
        style: { stroke: points[params.dataIndex].colour, lineWidth: 1.2, opacity: 0.75 },
      });
      return {
        type: "group",
        children: [
          line(x, low, x, high),
          line(x - 3, low, x + 3, low),
          line(x - 3, high, x + 3, high),
        ],
      };
    },
  };
}
