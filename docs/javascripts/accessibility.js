// What axe-core finds in the pages of the theme: landmarks with equal names, and tables that scroll but cannot be focused.
addEventListener("load", () => {
  document.querySelectorAll(".md-code__nav").forEach((nav, place) => nav.setAttribute("aria-label", `Code block ${place + 1}`));
  const seen = {};
  for (const nav of document.querySelectorAll("nav")) {
    const name = nav.getAttribute("aria-label") || nav.getAttribute("aria-labelledby") || "";
    seen[name] = (seen[name] || 0) + 1;
    if (seen[name] > 1) {
      nav.removeAttribute("aria-labelledby");
      nav.setAttribute("aria-label", `${nav.getAttribute("aria-label") || "Navigation"} ${seen[name]}`);
    }
  }
  document.querySelectorAll(".md-typeset__scrollwrap").forEach((table, place) => {
    table.tabIndex = 0;
    table.setAttribute("role", "group");
    table.setAttribute("aria-label", `Table ${place + 1}`);
  });
});
