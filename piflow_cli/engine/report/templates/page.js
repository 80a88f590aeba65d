"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("data").textContent).charts;
  const MINUS = "\u2212";

  // Numbers as short as they can be told apart.
  const short = v => {
    if (v == null || !Number.isFinite(v)) return "";
    const size = Math.abs(v), sign = v < 0 ? MINUS : "";
    if (size === 0) return "0";
    if (size >= 1e6) return sign + +(size / 1e6).toPrecision(4) + "M";
    if (size >= 1e4) return sign + +(size / 1e3).toPrecision(4) + "k";
    if (size >= 1e-3) return sign + +size.toPrecision(4);
    return sign + (+size.toPrecision(3)).toExponential().replace("-", MINUS);
  };
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const faint = value => value + "2e";

  // One line is one or three columns: its points, and the edges of its band.
  function table(chart) {
    const parts = chart.lines.map(line => [line.x, line.y, ...(line.low.length ? [line.low, line.high] : [])]);
    return parts.length > 1 ? uPlot.join(parts) : parts[0];
  }

  function series(chart) {
    const found = [{ label: chart.x_label, value: (u, v) => (v == null ? "" : v.toLocaleString("en", { maximumFractionDigits: v < 100 ? 3 : 0 })) }];
    const bands = [], bars = [];
    for (const line of chart.lines) {
      const stroke = colour("--c" + line.colour);
      found.push({
        label: line.label, stroke, width: 1.8, dash: line.dash, spanGaps: true,
        points: { show: line.marked, size: 7, fill: stroke, stroke }, value: (u, v) => (v == null ? "" : short(v)),
      });
      if (line.low.length) {
        const edge = { label: "", class: "edge", stroke: "transparent", width: 0, spanGaps: true, points: { show: false } };
        found.push({ ...edge }, { ...edge });
        if (line.marked) bars.push({ low: found.length - 2, high: found.length - 1, stroke });
        else bands.push({ series: [found.length - 1, found.length - 2], fill: faint(stroke) });
      }
    }
    return { series: found, bands, bars };
  }

  // Upright bars through the points of lines whose points are few.
  const drawBars = bars => u => {
    u.ctx.save();
    u.ctx.lineWidth = 1.4 * devicePixelRatio;
    for (const { low, high, stroke } of bars) {
      u.ctx.strokeStyle = stroke;
      u.ctx.beginPath();
      u.data[0].forEach((x, i) => {
        if (u.data[low][i] == null || u.data[high][i] == null) return;
        const across = u.valToPos(x, "x", true);
        u.ctx.moveTo(across, u.valToPos(u.data[low][i], "y", true));
        u.ctx.lineTo(across, u.valToPos(u.data[high][i], "y", true));
      });
      u.ctx.stroke();
    }
    u.ctx.restore();
  };

  // What the legend says while nobody points at the chart: the last number of each line.
  const showLast = u => u.setLegend({ idxs: u.data.map(values => values.findLastIndex(v => v != null)) }, false);

  // What is seen from left to right: points that are marked are not cut in halves by the edges.
  function across(chart, from, to) {
    if (from == null || from === to) return chart.log_x ? [(from || 1) / 2, (from || 1) * 2] : [(from || 0) - 1, (from || 0) + 1];
    const room = chart.lines.some(line => line.marked) ? 0.03 : 0;
    if (!chart.log_x) return [from - room * (to - from), to + room * (to - from)];
    const factor = (to / from) ** room;
    return [from / factor, to * factor];
  }

  // Marks of a logarithmic axis: powers of its base, and where these are few, twice and five times those of ten.
  function marks(base, from, to) {
    const powers = [];
    for (let i = Math.floor(Math.log(from) / Math.log(base)); base ** i <= to * 1.0001; i++) powers.push(+(base ** i).toPrecision(12));
    const inside = values => values.filter(v => v >= from * 0.9999 && v <= to * 1.0001);
    if (base === 10 && inside(powers).length < 3) return inside(powers.flatMap(v => [v, 2 * v, 5 * v].map(w => +w.toPrecision(12))));
    return inside(powers);
  }
  const logarithmic = base => ({ splits: (u, axis, from, to) => marks(base, from, to), filter: (u, values) => values });

  function options(chart, width, log) {
    const soft = colour("--soft"), grid = { stroke: colour("--grid"), width: 1 };
    const axis = { stroke: soft, grid, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const labels = (u, values) => values.map(v => (v == null ? "" : short(v)));
    const { series: lines, bands, bars } = series(chart);
    return {
      width, height: 230, series: lines, bands,
      scales: {
        x: { time: false, distr: chart.log_x ? 3 : 1, log: chart.log_x || 10, range: (u, from, to) => across(chart, from, to) },
        y: log ? { distr: 3, range: (u, from, to) => [from / 1.12, to * 1.12] } : { distr: 1 },
      },
      axes: [
        { ...axis, values: labels, space: 60, size: 34, ...(chart.log_x ? logarithmic(chart.log_x) : {}) },
        { ...axis, values: labels, space: 34, size: 54, gap: 4, ...(log ? logarithmic(10) : {}) },
      ],
      cursor: chart.x_label === "step" ? { sync: { key: "step", setSeries: false } } : {},
      legend: { live: true, markers: { width: 0, fill: (u, i) => lines[i].stroke } },
      hooks: { ready: [showLast], draw: [drawBars(bars)], setCursor: [u => { if (u.cursor.left < 0) showLast(u); }] },
      padding: [10, 16, 0, 0],
    };
  }

  const plots = [...document.querySelectorAll(".chart")].map(box => {
    const chart = charts[box.dataset.chart], place = box.querySelector(".plot"), button = box.querySelector(".log");
    let log = chart.log_y, plot = null;
    const draw = () => {
      if (plot) plot.destroy();
      plot = new uPlot(options(chart, place.clientWidth, log), table(chart), place);
    };
    if (button) {
      button.addEventListener("click", () => {
        log = !log;
        button.setAttribute("aria-pressed", String(log));
        draw();
      });
    }
    draw();
    new ResizeObserver(() => {
      if (plot.width !== place.clientWidth) plot.setSize({ width: place.clientWidth, height: plot.height });
    }).observe(place);
    return draw;
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plots.forEach(draw => draw()));

  // A slider over the steps of all pictures: each run shows its newest one of that step or before.
  for (const strip of document.querySelectorAll(".strip")) {
    const views = [...strip.querySelectorAll(".view")].map(view => ({ at: view.querySelector(".at"), frames: [...view.querySelectorAll("img")] }));
    const step = frame => Number(frame.dataset.step);
    const steps = [...new Set(views.flatMap(view => view.frames.map(step)))].sort((a, b) => a - b);
    const slider = strip.querySelector("input"), output = strip.querySelector("output");
    const back = strip.querySelector(".back"), on = strip.querySelector(".on");
    const show = () => {
      const now = steps[slider.value];
      for (const { at, frames } of views) {
        const chosen = frames.filter(frame => step(frame) <= now).pop() || frames[0];
        frames.forEach(frame => { frame.hidden = frame !== chosen; });
        if (at && chosen) at.textContent = "step " + step(chosen).toLocaleString("en");
      }
      output.textContent = "step " + now.toLocaleString("en");
      slider.setAttribute("aria-valuetext", output.textContent);
      back.disabled = slider.value === slider.min;
      on.disabled = slider.value === slider.max;
    };
    slider.max = String(steps.length - 1);
    slider.value = slider.max;
    slider.addEventListener("input", show);
    back.addEventListener("click", () => { slider.stepDown(); show(); });
    on.addEventListener("click", () => { slider.stepUp(); show(); });
    show();
  }
})();
