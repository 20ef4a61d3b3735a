netlabPage.render(document.getElementById("netlab"), JSON.parse(document.getElementById("netlab-data").textContent), {hash: true, keys: "document"});
