// Theme button, sorting by column heading, open or close all examples. The page is complete without this.
const root = document.documentElement;

function button(text, label, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  if (label) made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
}

// A choice holds for this page; the system's preference holds until there is one.
const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
const theme = button("", "", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  name();
});
function name() {
  theme.textContent = isDark() ? "Light" : "Dark";
  theme.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colors`);
}
theme.className = "theme";
dark.addEventListener("change", name);
name();
document.querySelector("header").append(theme);

for (const table of document.querySelectorAll("table[data-sort]")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const sorter = button("", "", () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const order = (a, b) => {
        const [x, y] = [key(a), key(b)];
        const both = x.trim() !== "" && y.trim() !== "" && !isNaN(x) && !isNaN(y);
        return both ? x - y : x.localeCompare(y);
      };
      // Rows without a number stay last, whichever way the others go.
      const known = (row) => row.cells[column].dataset.value !== undefined || !head.classList.contains("num");
      const rows = [...body.rows].sort((a, b) => known(b) - known(a) || (down ? order(b, a) : order(a, b)));
      body.append(...rows);
    });
    sorter.append(...head.childNodes);
    head.append(sorter);
  });
}

for (const list of document.querySelectorAll(".examples")) {
  const items = [...list.querySelectorAll("details")];
  if (items.length < 2) continue;
  const all = button("Open all", "", () => {
    const open = items.some((item) => !item.open);
    items.forEach((item) => (item.open = open));
    all.textContent = open ? "Close all" : "Open all";
  });
  all.className = "all";
  list.before(all);
}

// On paper nothing can be opened.
let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  closed.forEach((item) => (item.open = true));
});
addEventListener("afterprint", () => closed.forEach((item) => (item.open = false)));
