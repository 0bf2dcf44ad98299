"use strict";
// Sort a table by a column: numbers as numbers, cells without one last; a second press turns the order round.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      const body = table.tBodies[0];
      const key = (row) => {
        const cell = row.cells[column].cloneNode(true);
        cell.querySelectorAll("sup, .tag").forEach((mark) => mark.remove());
        const text = cell.textContent.trim();
        const number = head.classList.contains("number") ? parseFloat(text) : NaN;
        return { text, number, empty: text === "-" || (head.classList.contains("number") && Number.isNaN(number)) };
      };
      const rows = [...body.rows].map((row) => ({ row, key: key(row) }));
      rows.sort((a, b) => {
        if (a.key.empty !== b.key.empty) return a.key.empty ? 1 : -1;
        const order = Number.isNaN(a.key.number)
          ? a.key.text.localeCompare(b.key.text, "en", { numeric: true })
          : a.key.number - b.key.number;
        return descending ? -order : order;
      });
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      body.append(...rows.map((entry) => entry.row));
    });
  });
}
