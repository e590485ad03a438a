"use strict";
// Rows are there without this; it sorts, filters and opens them. Text goes in as text only.
(() => {
  const byId = (id) => document.getElementById(id);
  const table = byId("table");
  const body = table.tBodies[0];
  const fields = { q: byId("q"), s: byId("s"), t: byId("t"), p: byId("p") };
  const rows = [...body.rows].map((tr, at) => ({ tr, at, text: null, details: null }));
  const byLabel = new Map(rows.map((row) => [row.tr.id, row]));
  const heads = [...table.tHead.rows[0].cells];
  let only = "";
  let order = { column: null, down: false };
  let known = null;

  const el = (tag, text, ...children) => {
    const made = document.createElement(tag);
    if (text !== null && text !== undefined) made.textContent = text;
    made.append(...children);
    return made;
  };
  const button = (row) => row.tr.cells[0].firstElementChild;
  const shown = () => [...body.rows].filter((tr) => tr.id && !tr.hidden).map((tr) => byLabel.get(tr.id));

  const filter = () => {
    const words = fields.q.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const data = row.tr.dataset;
      if (words.length && row.text === null) row.text = row.tr.textContent.toLowerCase();
      const fits =
        (!fields.s.value || data.s === fields.s.value) &&
        (!fields.t.value || data.t === fields.t.value) &&
        (!fields.p.value || data.p === fields.p.value) &&
        (!only || data.c === only) &&
        words.every((word) => row.text.includes(word));
      row.tr.hidden = !fits;
      if (row.details) row.details.hidden = !fits;
      count += fits;
    }
    byId("count").textContent = `${count} of ${rows.length}` + (only ? `, of ${only}` : "");
    current(shown()[0]);
  };

  const sort = (column, down) => {
    order = { column, down };
    heads.forEach((head, at) =>
      head.setAttribute("aria-sort", at !== column ? "none" : down ? "descending" : "ascending"));
    const keyed = rows.map((row) => {
      const cell = row.tr.cells[column];
      const value = cell.dataset.v;
      return [row, value === undefined ? cell.textContent : value === "" ? null : parseFloat(value)];
    });
    const sign = down ? -1 : 1;
    keyed.sort(([a, x], [b, y]) => {
      const missing = (x === null || x === "") - (y === null || y === "");
      if (missing) return missing; // what has no value is last, either way
      if (x === null || x === y) return a.at - b.at;
      return sign * (typeof x === "number" ? x - y : x < y ? -1 : 1) || a.at - b.at;
    });
    const all = document.createDocumentFragment();
    for (const [row] of keyed) {
      all.append(row.tr);
      if (row.details) all.append(row.details);
    }
    body.append(all);
  };

  const current = (row) => {
    for (const old of body.querySelectorAll("tr > th > [tabindex='0']")) old.tabIndex = -1;
    if (row) button(row).tabIndex = 0;
  };
  const go = (row) => {
    current(row);
    button(row).focus();
    row.tr.scrollIntoView({ block: "nearest" });
  };

  const size = (count) => {
    for (const [unit, name] of [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]]) {
      if (count >= unit) return `${(count / unit).toFixed(1)} ${name}`;
    }
    return `${count} B`;
  };
  const number = (value) =>
    typeof value !== "number" ? String(value)
      : value && Math.abs(value) < 1e-4 ? value.toExponential(2) : String(Number(value.toPrecision(5)));
  const list = (pairs) => {
    const made = el("dl");
    for (const [name, value] of pairs) {
      if (value === undefined || value === null || value === "") continue;
      made.append(el("dt", name), value instanceof Node ? el("dd", null, value) : el("dd", String(value)));
    }
    return made;
  };
  const part = (title, ...children) => el("section", null, el("h4", title), ...children);
  const lines = (given) => el("ul", null, ...given.map((each) => el("li", each)));
  const code = (text) => (text ? el("code", text) : null);

  const measured = (title, found) => {
    const outputs = Object.entries(found.outputs || {});
    const names = [...new Set(outputs.flatMap(([, each]) => Object.keys(each)))]
      .filter((name) => outputs.every(([, each]) => typeof each[name] !== "object"));
    const head = el("tr", null, el("th", "output"), ...names.map((name) => el("th", name.replaceAll("_", " "))));
    const grid = el("table", null, el("thead", null, head), el("tbody", null, ...outputs.map(([name, each]) =>
      el("tr", null, el("th", name), ...names.map((key) => el("td", each[key] === undefined ? "" : number(each[key])))))));
    grid.className = "list";
    const about = [found.passed ? "passed" : "FAILED", found.samples && `${found.samples} samples`, found.gpu, found.finished];
    return part(title, el("p", about.filter(Boolean).join(" · ")), ...(found.failures ? [lines(found.failures)] : []),
      el("div", null, grid));
  };

  // JSON, deflated, in base64.
  const unpacked = async () => {
    const packed = atob(byId("details").textContent);
    const bytes = Uint8Array.from(packed, (each) => each.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  };
  const details = (found) => {
    const made = el("div");
    made.className = "details";
    if (found.failure) {
      const log = el("pre", (found.failure.log || []).join("\n"));
      log.className = "log";
      log.tabIndex = 0;
      made.append(part(`Failed in stage ${found.failure.stage}`, el("p", found.failure.error),
        ...(found.failure.log ? [log] : [])));
    }
    if (found.why || found.unfit) {
      made.append(part("Why it is not up to date", lines([...(found.why || []), ...(found.unfit ? [found.unfit] : [])])));
    }
    const last = found.last || {};
    const cache = last.timing_cache || {};
    made.append(part(found.why ? "The last engine" : "Engine", list([
      ["entry", code(last.engine)], ["file", code(last.sha256)], ["size", last.size && `${size(last.size)} (${last.size} B)`],
      ["toolchain", found.toolchain], ["plan", code(found.plan)],
      ["built", [last.finished, last.host && `on ${last.host}`, last.gpu].filter(Boolean).join(" ")],
      ["took", last.seconds && `${last.seconds} s, of it ${last.build_seconds ?? "?"} s in TensorRT`],
      ["timings", cache.state && [cache.state, cache.tactics_timed !== undefined && `${cache.tactics_timed} tactics timed`]
        .filter(Boolean).join(", ")],
      ["specs at", code(last.git)],
    ]), ...(last.warnings ? [lines(last.warnings)] : [])));
    const accuracy = found.accuracy || {};
    if (accuracy.engine) made.append(measured("Accuracy of the engine", accuracy.engine));
    if (accuracy.model) made.append(measured("Accuracy of the converted model", accuracy.model));
    const latency = found.latency;
    if (latency) {
      made.append(part("Latency", list([
        ["median", `${latency.median_ms} ms`], ["p99", `${latency.p99_ms} ms`],
        ["throughput", latency.throughput_qps && `${latency.throughput_qps} queries/s`],
        ["shapes", Object.entries(latency.shapes || {}).map(([name, dims]) => `${name} ${dims.join("×")}`).join(", ")],
        ["on", [latency.gpu, latency.driver && `driver ${latency.driver}`].filter(Boolean).join(", ")],
        ["held down by", (latency.held_down_by || []).join(", ")], ["measured", latency.finished],
      ]), ...(latency.failures ? [lines(latency.failures)] : [])));
    }
    const serving = Object.entries(found.environments || {});
    if (serving.length) {
      made.append(part("Environments", lines(serving.map(([name, each]) =>
        `${name}: number ${each.number}, since ${each.since}, engine ${each.engine.slice(7, 19)}` +
        (each.fresh === false ? `; stale: ${each.why}` : each.why ? `; ${each.why}` : "") +
        (each.overridden ? `; OVERRIDDEN: ${each.overridden.join(", ")}` : "")))));
    }
    const history = (found.history || []).filter((each) => each.seconds !== undefined);
    if (history.length > 1) {
      made.append(part("Builds", lines(history.slice(-12).reverse().map((each) =>
        `${each.finished || "earlier"}: ${each.seconds} s` + (each.size ? `, ${size(each.size)}` : "")))));
    }
    return made;
  };

  const open = async (row, wanted) => {
    if ((row.details !== null) === wanted) return;
    button(row).setAttribute("aria-expanded", String(wanted));
    if (!wanted) {
      row.details.remove();
      row.details = null;
      return;
    }
    const cell = el("td", "…");
    cell.colSpan = heads.length;
    row.details = el("tr", null, cell);
    row.details.className = "open";
    row.tr.after(row.details);
    try {
      known ??= unpacked();
      cell.replaceChildren(details((await known)[row.at]));
    } catch (error) {
      cell.textContent = `this browser cannot show more: ${error}`;
    }
  };

  const link = (hash) => history.replaceState(null, "", hash || location.pathname + location.search);
  const remember = () => {
    const said = new URLSearchParams();
    for (const [name, field] of Object.entries(fields)) if (field.value) said.set(name, field.value);
    if (only) said.set("c", only);
    if (order.column !== null) said.set("o", (order.down ? "-" : "") + heads[order.column].firstElementChild.dataset.k);
    link(String(said) && `#?${said}`);
  };
  const follow = () => {
    const raw = location.hash.slice(1);
    if (raw.startsWith("?")) {
      const said = new URLSearchParams(raw.slice(1));
      for (const [name, field] of Object.entries(fields)) field.value = said.get(name) || "";
      only = said.get("c") || "";
      const by = said.get("o") || "";
      const column = heads.findIndex((head) => head.firstElementChild.dataset.k === by.replace("-", ""));
      if (column >= 0) sort(column, by.startsWith("-"));
      filter();
      byId("variants").scrollIntoView();
      return;
    }
    let label = raw;
    try {
      label = decodeURIComponent(raw);
    } catch {
      return; // no link that this page made
    }
    const row = byLabel.get(label);
    if (!row) return;
    if (row.tr.hidden) {
      reset();
    }
    open(row, true);
    // The browser goes there as well, and takes the focus off what cannot have it.
    row.tr.tabIndex = -1;
    go(row);
    row.tr.scrollIntoView({ block: "center" });
  };
  const reset = () => {
    for (const field of Object.values(fields)) field.value = "";
    only = "";
    filter();
  };

  const form = fields.q.form;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    reset();
    remember();
  });
  for (const event of ["input", "change"]) {
    form.addEventListener(event, ({ target }) => {
      if (event === "change" && target === fields.q) return; // it was heard when it was typed
      filter();
      remember();
    });
  }
  heads.forEach((head, at) => head.firstElementChild.addEventListener("click", () => {
    sort(at, order.column === at && !order.down);
    remember();
  }));
  body.addEventListener("click", (event) => {
    const tr = event.target.closest("tr");
    const row = tr && byLabel.get(tr.id);
    if (!row || event.target.closest("a")) return;
    if (!event.target.closest("button") && String(getSelection())) return; // somebody copies
    const wanted = row.details === null;
    open(row, wanted);
    current(row);
    if (wanted) link(`#${encodeURIComponent(row.tr.id)}`);
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.closest("input, select, textarea");
    const tr = event.target.closest("#table > tbody > tr");
    const row = byLabel.get((tr?.classList.contains("open") ? tr.previousElementSibling : tr)?.id);
    if (event.key === "Escape") {
      if (event.target === fields.q) {
        fields.q.value = "";
        filter();
        remember();
      } else if (row) {
        open(row, false);
        go(row);
      }
      return;
    }
    if (typing) {
      if (event.key === "Enter" && event.target === fields.q) {
        event.preventDefault(); // or the row would be opened by the same key
        if (shown()[0]) go(shown()[0]);
      }
      return;
    }
    if (event.key === "/") {
      event.preventDefault();
      fields.q.focus();
      fields.q.select();
      return;
    }
    const step = { j: 1, k: -1, ArrowDown: row ? 1 : 0, ArrowUp: row ? -1 : 0 }[event.key];
    if (!step) return;
    const all = shown();
    const at = all.indexOf(row);
    const next = row ? all[at + step] : all[0];
    if (next) {
      event.preventDefault();
      go(next);
    }
  });
  for (const log of document.querySelectorAll("pre.log")) log.scrollTop = log.scrollHeight;
  addEventListener("beforeprint", () => {
    for (const each of document.querySelectorAll("details")) each.open = true;
  });
  addEventListener("hashchange", follow);
  follow();
  // Once more when the browser has gone there: it does so in the first frames after all is loaded.
  addEventListener("load", () => requestAnimationFrame(() => requestAnimationFrame(() => {
    if (!location.hash.startsWith("#?")) follow();
  })));
})();
