"use strict";
(function () {
  const PER_PAGE = 8;

  // Tables: a click on a heading sorts by that column.
  function sortable(table) {
    table.querySelectorAll("th button").forEach((button, column) => {
      button.addEventListener("click", () => {
        const heading = button.parentElement;
        const down = heading.getAttribute("aria-sort") === "ascending";
        table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", down ? "descending" : "ascending");
        const body = table.tBodies[0];
        const rows = Array.from(body.rows);
        rows.sort((a, b) => compare(a.cells[column], b.cells[column]) * (down ? -1 : 1));
        body.append(...rows);
      });
    });
  }

  function compare(a, b) {
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
    let place = 0;
    while (place < text.length) {
      let value = 0;
      let shift = 0;
      let group;
      do {
        group = text.charCodeAt(place) - 48;
        value |= (group & 31) << shift;
        shift += 5;
        place += 1;
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
        for (let i = position; i < position + length; i += 1) {
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
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140 ? "black" : "white";
  }

  function drawObjects(canvas, picture, image, objects, classes, shown) {
    canvas.width = image.width;
    canvas.height = image.height;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(picture, 0, 0, image.width, image.height);
    const byScore = objects.slice().reverse();
    if (shown.masks) {
      const data = context.getImageData(0, 0, image.width, image.height);
      const photograph = data.data.slice();
      for (const one of byScore) {
        if (one.rle) paintMask(data.data, photograph, image.width, image.height, one.rle, classes[one.class].colour);
      }
      context.putImageData(data, 0, 0);
    }
    const size = Math.max(11, Math.round(image.width / 42));
    context.font = `${size}px system-ui, "Liberation Sans", sans-serif`;
    context.lineWidth = Math.max(1.5, image.width / 320);
    for (const one of shown.boxes ? byScore : []) {
      context.strokeStyle = css(classes[one.class].colour);
      context.setLineDash(one.crowd ? [6, 4] : []);
      context.strokeRect(...one.box);
    }
    for (const one of shown.names ? byScore : []) {
      drawName(context, caption(one, classes), one.box[0], one.box[1], size, classes[one.class].colour, image.width);
    }
  }

  function drawName(context, text, x, y, size, colour, width) {
    const wide = context.measureText(text).width + 6;
    const left = Math.max(0, Math.min(x, width - wide));
    const top = Math.max(0, y - size - 4);
    context.fillStyle = css(colour);
    context.fillRect(left, top, wide, size + 4);
    context.fillStyle = ink(colour);
    context.fillText(text, left + 3, top + size);
  }

  function caption(one, classes) {
    const name = classes[one.class].name + (one.crowd ? " (crowd)" : "");
    return one.score === undefined ? name : `${name} ${one.score.toFixed(2)}`;
  }

  // Gallery: what is shown follows from the state of the controls.
  function startGallery(sets) {
    const byId = (id) => document.getElementById(id);
    const [chooseSet, chooseRun, chooseClass] = ["choose-set", "choose-run", "choose-class"].map(byId);
    const score = byId("choose-score");
    let first = 0;

    function options(select, texts) {
      select.replaceChildren(...texts.map((text, place) => new Option(text, String(place))));
    }

    function current() {
      const set = sets[Number(chooseSet.value)];
      return { set, run: set.runs[Number(chooseRun.value)], only: Number(chooseClass.value) - 1, least: Number(score.value) };
    }

    function shownObjects(place) {
      const { set, run, only, least } = current();
      const fits = (one) => only < 0 || one.class === only;
      return { truth: set.images[place].truth.filter(fits), found: run.found[place].filter((one) => fits(one) && one.score >= least) };
    }

    function matching() {
      const { set, only } = current();
      const places = set.images.map((_, place) => place);
      if (only < 0) return places;
      return places.filter((place) => {
        const { truth, found } = shownObjects(place);
        return truth.length + found.length > 0;
      });
    }

    function panel(title, image, objects, classes) {
      const figure = document.createElement("figure");
      const canvas = document.createElement("canvas");
      const text = document.createElement("figcaption");
      text.textContent = `${title}: ${objects.length}`;
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `${title}: ${objects.map((one) => caption(one, classes)).join(", ") || "nothing"}`);
      const shown = { masks: byId("show-masks").checked, boxes: byId("show-boxes").checked, names: byId("show-names").checked };
      const picture = new Image();
      picture.addEventListener("load", () => {
        drawObjects(canvas, picture, image, objects, classes, shown);
        canvas.dataset.drawn = "true";
      });
      picture.src = `data:image/jpeg;base64,${image.jpeg}`;
      figure.append(canvas, text);
      return figure;
    }

    function pair(place) {
      const { set } = current();
      const { truth, found } = shownObjects(place);
      const row = document.createElement("div");
      row.className = "pair";
      if (set.annotated) row.append(panel("Ground truth", set.images[place], truth, set.classes));
      row.append(panel("Predictions", set.images[place], found, set.classes));
      return row;
    }

    function card(place) {
      const box = document.createElement("article");
      box.className = "card";
      const heading = document.createElement("h3");
      heading.textContent = current().set.images[place].name;
      const row = pair(place);
      row.addEventListener("click", () => enlarge(place));
      box.append(heading, row);
      return box;
    }

    function enlarge(place) {
      const dialog = byId("large");
      dialog.querySelector("div").replaceChildren(pair(place));
      dialog.showModal();
    }

    function draw() {
      byId("score-shown").textContent = Number(score.value).toFixed(2);
      const places = matching();
      first = Math.min(first, Math.max(0, places.length - 1));
      first -= first % PER_PAGE;
      const page = places.slice(first, first + PER_PAGE);
      byId("position").textContent = places.length
        ? `images ${first + 1} to ${first + page.length} of ${places.length}`
        : "no image";
      byId("previous").disabled = first === 0;
      byId("next").disabled = first + PER_PAGE >= places.length;
      byId("cards").replaceChildren(...page.map(card));
    }

    function changeRun() {
      const { set, run } = current();
      const count = (place) => run.found.flat().filter((one) => one.class === place).length;
      const truth = (place) => set.images.flatMap((image) => image.truth).filter((one) => one.class === place).length;
      const kept = chooseClass.value;
      options(chooseClass, [
        "all classes",
        ...set.classes.map((one, place) => `${one.name} (${set.annotated ? `${truth(place)} true, ` : ""}${count(place)} found)`),
      ]);
      chooseClass.value = kept && Number(kept) <= set.classes.length ? kept : "0";
      draw();
    }

    function changeSet() {
      first = 0;
      chooseClass.value = "0";
      options(chooseRun, sets[Number(chooseSet.value)].runs.map((run) => run.label));
      changeRun();
    }

    options(chooseSet, sets.map((set) => set.label));
    chooseSet.addEventListener("change", changeSet);
    chooseRun.addEventListener("change", changeRun);
    chooseClass.addEventListener("change", draw);
    for (const control of [score, byId("show-masks"), byId("show-boxes"), byId("show-names")]) {
      control.addEventListener("input", draw);
    }
    byId("previous").addEventListener("click", () => { first -= PER_PAGE; draw(); });
    byId("next").addEventListener("click", () => { first += PER_PAGE; draw(); });
    byId("controls").addEventListener("submit", (event) => event.preventDefault());
    changeSet();
  }

  document.querySelectorAll("table").forEach(sortable);
  const sets = JSON.parse(document.getElementById("gallery-data").textContent);
  if (sets.length) startGallery(sets);
})();
