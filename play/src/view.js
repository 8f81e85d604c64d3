// What is shown: pictures with boxes, and tables.

const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// Put a picture with its faces into a figure, in place of what was there.
export function showPicture(figure, { canvas }, faces, caption) {
  const shown = canvas.cloneNode();
  shown.getContext("2d").drawImage(canvas, 0, 0);
  shown.setAttribute("role", "img");
  shown.setAttribute("aria-label", caption);
  const svg = element("svg", { viewBox: `0 0 ${canvas.width} ${canvas.height}`, "aria-hidden": "true" });
  figure.querySelector(".picture").replaceChildren(shown, svg);
  showFaces(figure, faces, caption);
}

// Boxes and landmarks over the picture that a figure has.
export function showFaces(figure, faces, caption) {
  const marks = faces.flatMap(({ box: [x1, y1, x2, y2], points }) => [
    element("rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1 }),
    ...[0, 2, 4, 6, 8].map((i) =>
      element("circle", { cx: points[i], cy: points[i + 1], r: Math.max(0.8, (x2 - x1) / 30) })),
  ]);
  figure.querySelector("svg").replaceChildren(...marks);
  figure.querySelector("[role=img]").setAttribute("aria-label", caption);
  figure.querySelector("figcaption").textContent = caption;
}

export function showRows(table, rows) {
  table.tBodies[0].replaceChildren(
    ...rows.map((cells) => {
      const row = document.createElement("tr");
      for (const text of cells) row.insertCell().textContent = text;
      return row;
    }),
  );
}

export function count(faces) {
  return `${faces.length} ${faces.length === 1 ? "face" : "faces"}`;
}
