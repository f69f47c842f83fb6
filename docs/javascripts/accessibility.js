// What axe-core finds in the pages of the theme: landmarks with equal names, and tables that scroll but cannot be focused.
addEventListener("load", () => {
  document.querySelectorAll(".md-code__nav").forEach((nav, place) => nav.setAttribute("aria-label", `Code block ${place + 1}`));
  const seen = {};
  for (const nav of document.querySelectorAll("nav")) {
    const labels = document.getElementById(nav.getAttribute("aria-labelledby"));
    const name = (labels ? labels.textContent : nav.getAttribute("aria-label") || "Navigation").trim();
    seen[name] = (seen[name] || 0) + 1;
    if (seen[name] > 1) {
      nav.removeAttribute("aria-labelledby");
      nav.setAttribute("aria-label", `${name} ${seen[name]}`);
    }
  }
  document.querySelectorAll(".md-typeset__scrollwrap").forEach((table, place) => {
    table.tabIndex = 0;
    table.setAttribute("role", "group");
    table.setAttribute("aria-label", `Table ${place + 1}`);
  });
});
