// Swagger UI over the service's own description.
"use strict";
const here = new URL(".", location.href).href.slice(0, -1); // with the path that a proxy may have put before it
fetch("openapi.json")
  .then((response) => response.json())
  .then((spec) => SwaggerUIBundle({ spec: { ...spec, servers: [{ url: here }] }, dom_id: "#interface", deepLinking: true }));
