// The interactive part of a report: a table of runs, a chart of what the reader chooses, and charts beside figures.
"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const data = read("explore-data");
  const specifications = read("chart-specifications");
  const columnOf = new Map(data.columns.map((column, place) => [column.name, { ...column, place }]));
  const measureOf = new Map();
  data.groups.forEach((group) =>
    group.measures.forEach((measure, place) => measureOf.set(measure.name, { ...measure, group, place: place + 1 })));
  const TIMES = [
    { name: "step", title: "training step", kind: "number" },
    { name: "seconds", title: "seconds of training", kind: "number" },
  ];
  const placeOfRun = new Map(data.rows.map((row, place) => [row[columnOf.get("run").place], place]));
  const describe = (name) => TIMES.find((time) => time.name === name) || measureOf.get(name) || columnOf.get(name);
  const cell = (run, name) => data.rows[run][columnOf.get(name).place];
  const isNumber = (about) => about.kind !== "text";

  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name in made) made[name] = value;
      else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  };
  // Text of a number for people: four digits, percent for fractions.
  const show = (value, kind) => {
    if (value === null || value === undefined) return "";
    if (kind === "text") return value;
    if (kind === "fraction") return `${Number((100 * value).toPrecision(4))}%`;
    return Math.abs(value) >= 1e4 && Number.isInteger(value) ? value.toLocaleString("en") : String(Number(value.toPrecision(4)));
  };

  // ------------------------------------------------------------------ rows of a chart
  const isSeries = (name) => TIMES.some((time) => time.name === name) || measureOf.has(name);
  // One value per log step of a run, or null.
  const seriesOf = (run, name, group) => {
    const series = group.series[run];
    if (!series) return null;
    if (name === "step") return series[0];
    if (name === "seconds") return data.speeds[run] ? series[0].map((step) => step / data.speeds[run]) : null;
    const measure = measureOf.get(name);
    return measure && measure.group === group ? series[measure.place] : null;
  };
  // One value per run: its setting or result, or the last value of a measurement.
  const valueOf = (run, name) => {
    if (!isSeries(name)) return cell(run, name);
    const group = measureOf.get(name)?.group || data.groups[0];
    const known = (seriesOf(run, name, group) || []).filter((value) => value !== null);
    return known.length ? known[known.length - 1] : null;
  };
  const rowsOf = (runs, choice) => {
    const { x, y, colour } = choice;
    const rows = [];
    const group = measureOf.get(y)?.group || measureOf.get(x)?.group;
    for (const run of runs) {
      const common = { method: cell(run, "label"), run: cell(run, "run"), colour: valueOf(run, colour) };
      const add = (at, value) => {
        if (at === null || value === null || at === undefined || value === undefined) return;
        if ((choice.log.includes("x") && !(at > 0)) || (choice.log.includes("y") && !(value > 0))) return;
        rows.push({ ...common, x: at, y: value });
      };
      if (isSeries(x) && isSeries(y) && group) {
        const [across, up] = [seriesOf(run, x, group), seriesOf(run, y, group)];
        if (across && up) up.forEach((value, place) => add(across[place], value));
      } else {
        add(valueOf(run, x), valueOf(run, y));
      }
    }
    return rows;
  };

  // ------------------------------------------------------------------ charts
  const colourOfPage = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const themed = () => {
    const [ink, muted, grid] = ["ink", "muted", "grid"].map(colourOfPage);
    const axis = { labelColor: ink, titleColor: ink, gridColor: grid, domainColor: muted, tickColor: muted };
    const font = "system-ui, 'DejaVu Sans', sans-serif";
    return {
      background: "transparent", font, view: { stroke: "transparent" },
      axis: { ...axis, labelFontSize: 11, titleFontSize: 12, titleFontWeight: "normal", labelLimit: 260 },
      legend: { labelColor: ink, titleColor: ink, labelFontSize: 11, labelLimit: 320, symbolLimit: 60 },
    };
  };
  const domainOf = (values, kind, log) => {
    let [low, high] = values.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
    if (!(low <= high)) return undefined;
    if (log) return low < high ? [low, high] : [low / 2, high * 2];
    const margin = 0.04 * (high - low) || 0.05 * Math.abs(high) || 1;
    [low, high] = [low >= 0 ? Math.max(0, low - margin) : low - margin, high + margin];
    return kind === "fraction" && high <= 1.1 ? [low, Math.min(1, high)] : [low, high];
  };
  const axisOf = (about, values, log) => {
    if (!isNumber(about)) return { type: "nominal", title: about.title, scale: undefined, axis: {} };
    const format = about.kind === "fraction" ? "~%" : "~s";
    return {
      type: "quantitative", title: about.title,
      scale: { type: log ? "log" : "linear", nice: false, domain: domainOf(values, about.kind, log), ...(log ? {} : { zero: false }) },
      axis: { format: log ? "~g" : format, tickCount: 6, labelOverlap: true },
    };
  };
  const colourScale = (about, values) => {
    const known = [...new Set(values)].filter((value) => value !== null);
    if (about.name === "label") {
      const domain = Object.keys(data.colours).filter((label) => known.includes(label));
      return { type: "nominal", scale: { domain, range: domain.map((label) => data.colours[label]) } };
    }
    if (isNumber(about)) return { type: "ordinal", scale: { scheme: "viridis" } };
    return { type: "nominal", scale: { scheme: known.length > 10 ? "category20" : "tableau10" } };
  };
  const specificationOf = (rows, choice, narrow) => {
    const [x, y, colour] = [choice.x, choice.y, choice.colour].map(describe);
    const series = isSeries(choice.x) && isSeries(choice.y);
    const kind = !series ? "points" : choice.means && choice.x === "step" ? "means" : "lines";
    const made = structuredClone(specifications[kind]);
    made.data = { values: rows };
    const axes = {
      x: axisOf(x, rows.map((row) => row.x), choice.log.includes("x")),
      y: axisOf(y, rows.map((row) => row.y), choice.log.includes("y")),
    };
    const legend = { title: null, orient: "top", columns: narrow ? 2 : 4, symbolOpacity: 1, symbolStrokeWidth: 2.5, ...(series && { symbolType: "stroke", symbolSize: 300 }) };
    const titles = { x: x.title, y: y.title, colour: colour.title, mean: `mean of ${y.title}`, low: "lowest", high: "highest", n: "runs" };
    const kinds = { x: x.kind, y: y.kind, colour: colour.kind, mean: y.kind, low: y.kind, high: y.kind };
    for (const unit of made.layer || [made]) {
      const encoding = unit.encoding;
      for (const side of ["x", "y"]) Object.assign(encoding[side], axes[side]);
      const scale = colourScale(colour, rows.map((row) => row.colour));
      Object.assign(encoding.color, scale, { legend });
      if (colour.name === "label" && (unit.mark.type || unit.mark) === "line") {
        const { domain } = scale.scale;
        encoding.strokeDash = { ...encoding.color, scale: { domain, range: domain.map((label) => data.dashes[label]) } };
      }
      const tips = (encoding.tooltip || []).map((tip) => {
        const format = { fraction: ".4~%", number: ".4~g" }[kinds[tip.field]];
        const isInteger = tip.field === "x" && choice.x === "step";
        return { ...tip, title: titles[tip.field] || tip.field, ...(format && { type: "quantitative", format: isInteger ? "," : format }) };
      });
      if (tips.length) encoding.tooltip = tips.filter((tip, at) => tips.findIndex((other) => other.title === tip.title) === at);
    }
    return made;
  };
  const drawn = new Map();
  // One drawing at a time; of those that wait, only the last is drawn.
  const draw = (target, runs, choice) => {
    const again = () => draw(target, runs, choice);
    drawn.set(target, again);
    target.drawing = (target.drawing || Promise.resolve()).then(() => drawn.get(target) === again && drawNow(target, runs, choice));
  };
  const drawNow = async (target, runs, choice) => {
    const rows = rowsOf(runs, choice);
    if (!rows.length) {
      target.replaceChildren(element("p", { className: "note" },
        "No chosen run has both of these" + (choice.log ? " with values above zero." : ".")));
      return;
    }
    const options = {
      config: themed(), renderer: "svg", actions: { export: true, source: false, compiled: false, editor: false },
      downloadFileName: `${choice.y}-${choice.x}`.replace(/[^\w.-]+/g, "-"),
    };
    target.view?.finalize();
    const result = await window.vegaEmbed(target, specificationOf(rows, choice, target.clientWidth < 560), options);
    target.view = result;
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach((again) => again()));

  // ------------------------------------------------------------------ table of runs
  const panel = document.getElementById("explore-panel");
  const chosen = new Set(data.rows.keys());
  let visible = [...data.rows.keys()];
  let order = { place: -1, down: false };
  const ask = (words) => {
    // Words must occur in a row; `name>number`, `name<number` and `name=text` compare a column.
    const tests = words.toLowerCase().split(/\s+/).filter(Boolean).map((word) => {
      const match = /^([^<>=]+)(<=|>=|<|>|=)(.+)$/.exec(word);
      const column = match && data.columns.find((each) => each.name.toLowerCase() === match[1]
        || each.title.toLowerCase() === match[1] || each.title.toLowerCase().replace(/ /g, "_") === match[1]);
      if (!column) return (row) => row.some((value, at) => String(show(value, data.columns[at].kind)).toLowerCase().includes(word));
      const { place, kind } = columnOf.get(column.name);
      const wanted = match[3].endsWith("%") ? parseFloat(match[3]) / 100 : Number(match[3]);
      return (row) => {
        const value = row[place];
        if (kind === "text" || Number.isNaN(wanted)) return match[2] === "=" && String(value).toLowerCase() === match[3];
        if (value === null) return false;
        return { "<": value < wanted, ">": value > wanted, "<=": value <= wanted, ">=": value >= wanted, "=": Math.abs(value - wanted) < 1e-9 }[match[2]];
      };
    });
    return (row) => tests.every((test) => test(row));
  };
  const compare = (a, b) => {
    // What is missing comes last, whichever way the column is sorted.
    const missing = (value) => value === null || value === "";
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    const found = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
    return order.down ? -found : found;
  };
  const makeTable = () => {
    const head = element("tr");
    const all = element("input", { type: "checkbox", checked: true, "aria-label": "Select all runs shown" });
    all.addEventListener("change", () => {
      visible.forEach((run) => (all.checked ? chosen.add(run) : chosen.delete(run)));
      update();
    });
    head.append(element("th", {}, all));
    data.columns.forEach((column, place) => {
      const button = element("button", { type: "button", className: "sort" }, column.title);
      const header = element("th", { scope: "col", className: column.kind === "text" ? "name" : "number", "aria-sort": "none" }, button);
      button.addEventListener("click", () => {
        order = { place, down: order.place === place && !order.down };
        head.querySelectorAll("th").forEach((other) => other.hasAttribute("aria-sort") && other.setAttribute("aria-sort", "none"));
        header.setAttribute("aria-sort", order.down ? "descending" : "ascending");
        update();
      });
      head.append(header);
    });
    const lines = data.rows.map((row, run) => {
      const box = element("input", { type: "checkbox", checked: true, "aria-label": `Select ${row[columnOf.get("run").place]}` });
      box.addEventListener("change", () => {
        if (box.checked) chosen.add(run);
        else chosen.delete(run);
        update();
      });
      const line = element("tr", {}, element("td", {}, box));
      row.forEach((value, place) => {
        const { name, kind } = data.columns[place];
        const shown = element("td", { className: kind === "text" ? "name" : "number" });
        if (name === "label") shown.append(element("span", { className: "swatch", style: `background:${data.colours[value] || "gray"}` }));
        shown.append(String(show(value, kind)));
        line.append(shown);
      });
      return { line, box };
    });
    const body = element("tbody");
    const table = element("div", { className: "scroll runs", tabIndex: 0, role: "region", "aria-label": "Table of runs" },
      element("table", {}, element("thead", {}, head), body));
    return { all, lines, body, table };
  };
  const { all, lines, body, table } = makeTable();
  const filter = element("input", { type: "search", id: "explore-filter", placeholder: "rigl sparsity>0.9", autocomplete: "off" });
  const count = element("span", { className: "small", "aria-live": "polite" });

  // ------------------------------------------------------------------ what is drawn
  const select = (label, groups, value) => {
    const box = element("select");
    for (const [title, options] of groups) {
      if (!options.length) continue;
      box.append(element("optgroup", { label: title }, ...options.map((about) =>
        element("option", { value: about.name, selected: about.name === value }, about.title))));
    }
    if (value && [...box.options].some((option) => option.value === value)) box.value = value;
    box.addEventListener("change", () => update());
    return { box, field: element("label", {}, `${label} `, box) };
  };
  const check = (label, checked) => {
    const box = element("input", { type: "checkbox", checked });
    box.addEventListener("change", () => update());
    return { box, field: element("label", {}, box, ` ${label}`) };
  };
  const measured = data.groups.map((group, place) =>
    [["Measurements", "At mask updates", "By layer"][place] || "Measurements", group.measures]);
  const settings = ["Settings and results", data.columns];
  const numeric = ["Settings and results", data.columns.filter(isNumber)];
  const first = ["test_accuracy", "train_loss"].find((name) => measureOf.has(name)) || data.groups[0]?.measures[0]?.name || "seed";
  const y = select("Show", [...measured, numeric], first);
  const x = select("against", [["Progress", TIMES], settings, ...measured], data.groups.length ? "step" : "target_sparsity");
  const colour = select("coloured by", [settings, ...measured], "label");
  const [logX, logY, means] = [check("log x", false), check("log y", false), check("means and ranges", data.rows.length > 12)];
  const chart = element("div", { className: "chart" });
  const draws = () => visible.filter((run) => chosen.has(run));
  let inSight = false;
  const update = () => {
    const test = ask(filter.value);
    visible = [...data.rows.keys()].filter((run) => test(data.rows[run]));
    if (order.place >= 0) visible.sort((a, b) => compare(data.rows[a][order.place], data.rows[b][order.place]));
    body.replaceChildren(...visible.map((run) => lines[run].line));
    lines.forEach(({ box }, run) => (box.checked = chosen.has(run)));
    const runs = draws();
    all.checked = runs.length > 0;
    all.indeterminate = runs.length > 0 && runs.length < visible.length;
    count.textContent = `${runs.length} of ${data.rows.length} runs drawn`;
    if (!inSight) return;
    const log = (logX.box.checked ? "x" : "") + (logY.box.checked ? "y" : "");
    draw(chart, runs, { x: x.box.value, y: y.box.value, colour: colour.box.value, log, means: means.box.checked });
  };
  let waiting = 0;
  filter.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(update, 150);
  });
  panel.append(
    element("p", { className: "controls" }, y.field, x.field, colour.field, logX.field, logY.field, means.field),
    chart,
    element("p", { className: "small" }, "Click a name of the legend to see it alone, with shift several; drag to move, turn the wheel to zoom, double-click to reset."),
    element("p", { className: "controls" }, element("label", { htmlFor: "explore-filter" }, "Filter "), filter, count),
    table,
  );
  if (data.note) panel.append(element("p", { className: "small" }, data.note));
  document.documentElement.classList.add("scripted");
  panel.hidden = false;
  // The chart is drawn when it comes into sight, so that a page opens at once.
  const watch = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && start(), { rootMargin: "400px" });
  const start = () => {
    watch.disconnect();
    inSight = true;
    update();
  };
  if (location.hash === "#explore") {
    start();
  } else {
    update();
    watch.observe(panel);
  }

  // ------------------------------------------------------------------ charts in the place of figures
  document.querySelectorAll("figure[data-charts]").forEach((figure) => {
    const charts = JSON.parse(figure.dataset.charts);
    const button = element("button", { type: "button", className: "interactive", "aria-pressed": "false" }, "interactive");
    const place = element("div", { className: "charts", hidden: true });
    figure.prepend(place);
    figure.querySelector("figcaption").prepend(button, " ");
    let isDrawn = false;
    button.addEventListener("click", () => {
      const opened = place.hidden;
      place.hidden = !opened;
      figure.classList.toggle("live", opened);
      button.setAttribute("aria-pressed", String(opened));
      if (!opened || isDrawn) return;
      isDrawn = true;
      for (const each of charts) {
        const target = element("div", { className: "chart" });
        place.append(target);
        draw(target, each.runs.map((run) => placeOfRun.get(run)), { ...each, colour: "label" });
      }
    });
  });
})();
