"use strict";
(function () {
  const PER_PAGE = 8;
  // Okabe and Ito's colours, which people with any kind of colour vision tell apart; what is not right is dashed too.
  const OUTCOMES = { right: [0, 158, 115], missed: [0, 114, 178], wrong: [213, 94, 0], crowd: [136, 136, 136] };
  const IN_CROWD = -2;
  const byId = (id) => document.getElementById(id);

  // Tables: a click on a heading sorts by that column.
  function makeSortable(table) {
    table.querySelectorAll("th button").forEach((button, column) => {
      button.addEventListener("click", () => {
        const heading = button.parentElement;
        const down = heading.getAttribute("aria-sort") === "ascending";
        table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", down ? "descending" : "ascending");
        const body = table.tBodies[0];
        const rows = Array.from(body.rows);
        rows.sort((a, b) => compareCells(a.cells[column], b.cells[column]) * (down ? -1 : 1));
        body.append(...rows);
      });
    });
  }

  function compareCells(a, b) {
    const [x, y] = [a.dataset.value, b.dataset.value];
    if (x !== undefined || y !== undefined) {
      return (x === undefined ? -Infinity : Number(x)) - (y === undefined ? -Infinity : Number(y)) || 0;
    }
    return a.textContent.localeCompare(b.textContent);
  }

  // Masks: COCO's compressed run-length code. Runs go down the columns, background first; a number is written in
  // groups of five bits, lowest first, and from the fourth run on as the difference to the run two before.
  function unpackRuns(text) {
    const runs = [];
    let index = 0;
    while (index < text.length) {
      let value = 0;
      let shift = 0;
      let group;
      do {
        group = text.charCodeAt(index) - 48;
        value |= (group & 31) << shift;
        shift += 5;
        index += 1;
      } while (group & 32);
      if (group & 16) value |= -1 << shift;
      runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
    }
    return runs;
  }

  // Mixes the colour with the photograph, not with masks painted before: where masks overlap, the last one is seen.
  function paintMask(pixels, photograph, width, height, text, colour) {
    let position = 0;
    unpackRuns(text).forEach((length, number) => {
      if (number % 2 === 1) {
        const end = Math.min(position + length, width * height);
        for (let i = position; i < end; i += 1) {
          const at = 4 * ((i % height) * width + Math.floor(i / height));
          for (let c = 0; c < 3; c += 1) pixels[at + c] = 0.5 * photograph[at + c] + 0.5 * colour[c];
        }
      }
      position += length;
    });
  }

  function css(colour) {
    return `rgb(${colour[0]}, ${colour[1]}, ${colour[2]})`;
  }

  function ink(colour) {
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 127 ? "black" : "white";
  }

  // `objects` have a box, a mask or none, a colour, a caption, and whether they are drawn dashed; the first is on top.
  function drawObjects(canvas, picture, image, objects, shows) {
    canvas.width = image.width;
    canvas.height = image.height;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(picture, 0, 0, image.width, image.height);
    const lastOnTop = objects.slice().reverse();
    if (shows.masks) {
      const data = context.getImageData(0, 0, image.width, image.height);
      const photograph = data.data.slice();
      for (const object of lastOnTop) {
        if (object.rle) paintMask(data.data, photograph, image.width, image.height, object.rle, object.colour);
      }
      context.putImageData(data, 0, 0);
    }
    const size = Math.max(11, Math.round(image.width / 42));
    context.font = `${size}px system-ui, "Liberation Sans", sans-serif`;
    context.lineWidth = Math.max(1.5, image.width / 320);
    for (const object of shows.boxes ? lastOnTop : []) {
      context.strokeStyle = css(object.colour);
      context.setLineDash(object.dashed ? [6, 4] : []);
      context.strokeRect(...object.box);
    }
    for (const object of shows.names ? lastOnTop : []) {
      const wide = context.measureText(object.caption).width + 6;
      const left = Math.max(0, Math.min(object.box[0], image.width - wide));
      const top = Math.max(0, object.box[1] - size - 4);
      context.fillStyle = css(object.colour);
      context.fillRect(left, top, wide, size + 4);
      context.fillStyle = ink(object.colour);
      context.fillText(object.caption, left + 3, top + size);
    }
  }

  // Gallery: what is shown follows from the controls, and the address holds what they say.
  function startGallery(sets) {
    const CONTROLS = ["set", "run", "class", "score", "own", "sort", "colour", "masks", "boxes", "names"];
    const control = Object.fromEntries(CONTROLS.map((name) => [name, byId(`choose-${name}`)]));
    // Scores of some matchers exceed 1.
    const scores = sets.flatMap((set) => set.runs.flatMap((run) => run.found.flat().map((found) => found.score)));
    control.score.max = Math.ceil(100 * scores.reduce((most, score) => Math.max(most, score), 1)) / 100;
    const dialog = byId("large");
    let first = 0;
    let enlarged = null; // position of the enlarged image among those shown
    let shown = []; // indices of the images that fit, in their order

    function fill(select, labels, wanted) {
      select.replaceChildren(...labels.map(([value, text]) => new Option(text, value)));
      select.value = wanted;
      if (select.selectedIndex < 0) select.selectedIndex = 0;
    }

    function current() {
      const set = sets[control.set.selectedIndex];
      const only = control.class.selectedIndex - 1;
      const run = set.runs[control.run.selectedIndex];
      const chosen = Number(control.score.value);
      // The lowest score that is shown, of each class: the run's own, or the slider's.
      const least = set.classes.map((_, label) => (control.own.checked ? run.lowest[label] : chosen));
      return { set, run, only, least };
    }

    // The slider starts at the run's own score, the mean of several; moved, it counts for all classes.
    function moveSlider() {
      const { only, least } = current();
      const shown = only < 0 ? least : [least[only]];
      if (control.own.checked) control.score.value = shown.reduce((sum, score) => sum + score, 0) / shown.length;
      const texts = [Math.min(...shown), Math.max(...shown)].map((score) => score.toFixed(2));
      byId("score-shown").textContent = [...new Set(texts)].join(" to ");
    }

    // What is right, missed and wrong in an image. Detections were matched with objects by descending score, so that
    // the matches of those from a score on are the same whatever comes after.
    function withOutcomes(index) {
      const { set, run, only, least } = current();
      const fits = (object) => only < 0 || object.class === only;
      const detections = run.found[index].filter((found) => fits(found) && found.score >= least[found.class]);
      const matched = new Set(detections.map((detection) => detection.match));
      const objects = set.images[index].truth.map((object, number) => ({
        ...object,
        outcome: object.crowd ? "crowd" : matched.has(number) ? "right" : "missed",
      }));
      const outcome = (match) => (match >= 0 ? "right" : match === IN_CROWD ? "crowd" : "wrong");
      const marked = detections.map((detection) => ({ ...detection, outcome: outcome(detection.match) }));
      return { objects: objects.filter(fits), detections: set.annotated ? marked : detections };
    }

    function count(objects, outcome) {
      return objects.filter((object) => object.outcome === outcome).length;
    }

    // F1 of one image, 1 for an image rightly left empty.
    function quality(index) {
      const { objects, detections } = withOutcomes(index);
      const right = count(detections, "right");
      const mistakes = count(detections, "wrong") + count(objects, "missed");
      return right + mistakes ? right / (right + mistakes / 2) : 1;
    }

    function order() {
      const { set, only } = current();
      let indices = set.images.map((_, index) => index);
      if (only >= 0) {
        indices = indices.filter((index) => {
          const { objects, detections } = withOutcomes(index);
          return objects.length + detections.length > 0;
        });
      }
      if (control.sort.value !== "file" && set.annotated) {
        const sign = control.sort.value === "worst" ? 1 : -1;
        const qualities = new Map(indices.map((index) => [index, quality(index)]));
        indices.sort((a, b) => sign * (qualities.get(a) - qualities.get(b)) || a - b);
      }
      return indices;
    }

    function drawable(object, set) {
      const { name, colour } = set.classes[object.class];
      const byOutcome = control.colour.value === "outcome" && object.outcome;
      const score = object.score === undefined ? "" : ` ${object.score.toFixed(2)}`;
      return {
        box: object.box,
        rle: object.rle,
        colour: byOutcome ? OUTCOMES[object.outcome] : colour,
        caption: `${name}${object.crowd ? " (crowd)" : ""}${score}`,
        dashed: object.crowd || (byOutcome && object.outcome !== "right"),
      };
    }

    function panel(title, image, objects, set) {
      const figure = document.createElement("figure");
      const canvas = document.createElement("canvas");
      const text = document.createElement("figcaption");
      text.textContent = title;
      const drawn = objects.map((object) => drawable(object, set));
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `${title}: ${drawn.map((object) => object.caption).join(", ") || "nothing"}`);
      const shows = { masks: control.masks.checked, boxes: control.boxes.checked, names: control.names.checked };
      const picture = new Image();
      picture.addEventListener("load", () => {
        drawObjects(canvas, picture, image, drawn, shows);
        canvas.dataset.drawn = "true";
      });
      picture.src = `data:image/jpeg;base64,${image.jpeg}`;
      figure.append(canvas, text);
      return figure;
    }

    function pair(index) {
      const { set } = current();
      const { objects, detections } = withOutcomes(index);
      const row = document.createElement("div");
      row.className = "pair";
      let mistakes = "";
      if (set.annotated) {
        const missed = count(objects, "missed");
        row.append(panel(`Ground truth: ${objects.length}, ${missed} missed`, set.images[index], objects, set));
        mistakes = `, ${count(detections, "wrong")} wrong`;
      }
      row.append(panel(`Predictions: ${detections.length}${mistakes}`, set.images[index], detections, set));
      return row;
    }

    function card(index, position) {
      const box = document.createElement("article");
      box.className = "card";
      box.tabIndex = 0;
      box.setAttribute("role", "button");
      box.setAttribute("aria-label", `Enlarge ${current().set.images[index].name}`);
      const heading = document.createElement("h3");
      heading.textContent = current().set.images[index].name;
      box.append(heading, pair(index));
      box.addEventListener("click", () => enlarge(position));
      return box;
    }

    function enlarge(position) {
      enlarged = Math.max(0, Math.min(position, shown.length - 1));
      const index = shown[enlarged];
      byId("large-name").textContent = `${current().set.images[index].name} (${enlarged + 1} of ${shown.length})`;
      dialog.querySelector("div").replaceChildren(pair(index));
      if (!dialog.open) dialog.showModal();
      remember();
    }

    function focusCard(position) {
      if (position < 0 || position >= shown.length) return;
      if (position < first || position >= first + PER_PAGE) {
        first = position - (position % PER_PAGE);
        draw();
      }
      byId("cards").children[position - first].focus();
    }

    function draw() {
      moveSlider();
      shown = order();
      first = Math.min(first, Math.max(0, shown.length - 1));
      first -= first % PER_PAGE;
      const page = shown.slice(first, first + PER_PAGE);
      byId("position").textContent = page.length ? `${first + 1} to ${first + page.length} of ${shown.length}` : "no image";
      byId("previous").disabled = first === 0;
      byId("next").disabled = first + PER_PAGE >= shown.length;
      byId("cards").replaceChildren(...page.map((index, offset) => card(index, first + offset)));
      byId("outcomes").hidden = control.colour.value !== "outcome" || !current().set.annotated;
      remember();
    }

    function chooseRun() {
      const { set, run } = current();
      const number = (lists, label) => lists.flat().filter((object) => object.class === label).length;
      const texts = set.classes.map(({ name }, label) => {
        const objects = number(set.images.map((image) => image.truth), label);
        return [name, `${name} (${set.annotated ? `${objects} true, ` : ""}${number(run.found, label)} at any score)`];
      });
      fill(control.class, [["", "all classes"], ...texts], control.class.value);
      draw();
    }

    function chooseSet(run = "") {
      fill(control.run, sets[control.set.selectedIndex].runs.map(({ label }) => [label, label]), run);
      chooseRun();
    }

    // The address: what differs from the defaults, so that a link shows what its sender saw.
    function remember() {
      const state = new URLSearchParams();
      for (const name of CONTROLS) {
        const { type, checked, value } = control[name];
        const text = type === "checkbox" ? String(checked) : value;
        const follows = name === "score" && control.own.checked;
        if (text !== defaults[name] && !follows) state.set(name, text);
      }
      if (first) state.set("first", String(first + 1));
      if (enlarged !== null) state.set("image", current().set.images[shown[enlarged]].name);
      const text = state.toString();
      if (text || location.hash.includes("=")) history.replaceState(null, "", `#${text || "gallery"}`);
    }

    function restore() {
      const state = new URLSearchParams(location.hash.slice(1));
      for (const name of CONTROLS) {
        const text = state.get(name) ?? defaults[name];
        if (control[name].type === "checkbox") control[name].checked = text === "true";
        else if (name !== "class" && name !== "run") control[name].value = text;
      }
      if (control.set.selectedIndex < 0) control.set.selectedIndex = 0;
      first = Math.max(0, (Number(state.get("first")) || 1) - 1);
      const image = state.get("image");
      const wanted = state.get("class");
      fill(control.class, [[wanted ?? "", ""]], wanted ?? "");
      chooseSet(state.get("run") ?? "");
      const position = shown.findIndex((index) => current().set.images[index].name === image);
      if (position >= 0) enlarge(position);
    }

    function pressed(event) {
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (dialog.open) {
        if (step) enlarge(enlarged + step);
        return;
      }
      const cards = Array.from(byId("cards").children);
      const focused = cards.indexOf(document.activeElement);
      if (focused < 0) return;
      if (step) focusCard(first + focused + step);
      else if (event.key === "Enter" || event.key === " ") enlarge(first + focused);
      else return;
      event.preventDefault();
    }

    fill(control.set, sets.map(({ label }) => [label, label]), sets[0].label);
    const defaults = Object.fromEntries(
      CONTROLS.map((name) => [name, control[name].type === "checkbox" ? String(control[name].checked) : control[name].value]),
    );
    defaults.class = "";
    defaults.run = sets[0].runs[0].label;
    control.set.addEventListener("change", () => { first = 0; chooseSet(); });
    control.run.addEventListener("change", chooseRun);
    control.score.addEventListener("input", () => { control.own.checked = false; });
    for (const name of CONTROLS.slice(2)) {
      control[name].addEventListener(control[name].tagName === "SELECT" ? "change" : "input", draw);
    }
    byId("previous").addEventListener("click", () => { first -= PER_PAGE; draw(); });
    byId("next").addEventListener("click", () => { first += PER_PAGE; draw(); });
    byId("controls").addEventListener("submit", (event) => event.preventDefault());
    document.addEventListener("keydown", pressed);
    dialog.addEventListener("close", () => {
      const position = enlarged;
      enlarged = null;
      focusCard(position);
      remember();
    });
    window.addEventListener("hashchange", () => { if (location.hash.includes("=")) restore(); });
    restore();
  }

  document.querySelectorAll("table").forEach(makeSortable);
  const sets = JSON.parse(byId("gallery-data").textContent);
  if (sets.length) startGallery(sets);
})();
