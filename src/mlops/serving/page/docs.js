// Swagger UI over the service's own description.
"use strict";
SwaggerUIBundle({ url: "openapi.json", dom_id: "#interface", deepLinking: true });
