"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const form = at("form"), drop = at("drop"), files = at("files"), list = at("results"), status = at("status");
  const maxBytes = Number(form.dataset.maxBytes);
  const AT_ONCE = 4, TRIES = 8;
  let done = 0, failed = 0, total = 0;

  const make = (tag, text = "", kind = "") => {
    const made = document.createElement(tag);
    made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  const megabytes = (bytes) => `${(bytes / 1048576).toFixed(1)} MB`;
  const readable = (file) => file.slice(0, 1).arrayBuffer().then(() => true, () => false);
  const wait = (seconds) => new Promise((go) => setTimeout(go, 1000 * seconds));

  const ask = async (file) => {
    if (file.size > maxBytes) {
      throw new Error(`${megabytes(file.size)}, over the limit of ${megabytes(maxBytes)}: send a smaller one`);
    }
    const headers = form.dataset.key === "yes" ? { Authorization: `Bearer ${at("key").value}` } : {};
    for (let tries = 1; ; tries += 1) {
      const body = new FormData();
      body.append("images", file, file.name);
      const answer = await fetch("/v1/predict", { method: "POST", body, headers });
      if ((answer.status === 429 || answer.status === 503) && tries < TRIES) {
        await wait(Number(answer.headers.get("Retry-After") || 1));
        continue;
      }
      // Something before the service, such as a proxy, answers in words of its own.
      const said = await answer.json().catch(() => ({ detail: `refused before it reached the service (status ${answer.status})` }));
      if (!said.results) throw new Error(said.detail);
      return said;
    }
  };

  const show = (place, said) => {
    const found = said.results[0], model = said.model;
    if (found.error) throw new Error(`${found.error.replaceAll("_", " ")}: ${found.detail}`);
    const [positive, bound] = [model.positive.join(" + "), model.threshold];
    if (found.above_threshold !== null) {
      const side = found.above_threshold ? "at or above" : "below";
      const p = found.positive_probability.toFixed(3);
      place.append(make("p", `${positive} ${p}: ${side} the operating threshold ${bound.toFixed(3)}`, "verdict"));
    }
    for (const [name, p] of Object.entries(found.probabilities)) {
      const row = make("div", "", "class"), track = make("div", "", "track"), bar = make("meter");
      bar.value = p;
      bar.setAttribute("aria-label", `probability of ${name}`);
      track.append(bar);
      if (found.above_threshold !== null && name === positive) {
        const mark = make("i", "", "mark");
        mark.style.left = `${100 * bound}%`;
        mark.title = `operating threshold ${bound.toFixed(3)}`;
        track.append(mark);
      }
      row.append(make("b", name), track, make("span", `${(100 * p).toFixed(1)} %`));
      place.append(row);
    }
    const { alarms, missed } = form.dataset;
    let doubt = "No diagnosis: see below what the figures mean.";
    if (found.above_threshold !== null && alarms) {
      doubt = found.above_threshold
        ? `No diagnosis: ${alarms} of the validation images that are not ${positive} reach the threshold, too.`
        : `No all-clear: ${missed} of the validation images that are ${positive} stay below the threshold, too.`;
    }
    place.append(make("p", doubt, "small"));
  };

  const tell = () => {
    status.textContent = `${done} of ${total} done${failed ? `, ${failed} with an error` : ""}`;
  };

  const one = async (file) => {
    const item = make("li"), picture = make("img"), said = make("div", "", "said");
    picture.alt = "";
    picture.src = URL.createObjectURL(file);
    picture.onload = () => URL.revokeObjectURL(picture.src);
    picture.onerror = () => { URL.revokeObjectURL(picture.src); picture.remove(); };
    said.append(make("h3", file.name));
    item.append(picture, said);
    list.append(item);
    try {
      show(said, await ask(file));
    } catch (error) {
      failed += 1;
      let why = error.message;
      if (error instanceof TypeError) { // of fetch itself, in the browser's own words
        why = await readable(file)
          ? "the service does not answer: is it still running?"
          : "cannot be read: a folder, or a file that is gone. Drop the image files themselves";
      }
      said.append(make("p", why, "bad"));
    }
    done += 1;
    tell();
  };

  const take = async (chosen) => {
    const left = [...chosen];
    if (!left.length) return;
    if (form.dataset.key === "yes" && !form.reportValidity()) return;
    total += left.length;
    tell();
    const work = async () => { while (left.length) await one(left.shift()); };
    await Promise.all(Array.from({ length: Math.min(AT_ONCE, left.length) }, work));
  };

  files.addEventListener("change", () => take(files.files).then(() => { files.value = ""; }));
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  for (const name of ["dragleave", "drop"]) {
    document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.remove("over"); });
  }
  document.addEventListener("drop", (event) => take(event.dataTransfer.files));
})();
