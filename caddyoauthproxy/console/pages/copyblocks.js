"use strict";
if (navigator.clipboard) {
	for (const block of document.querySelectorAll("pre.copy")) {
		const button = document.createElement("button");
		button.type = "button";
		button.className = "quiet";
		button.textContent = "Copy";
		button.setAttribute("aria-describedby", block.getAttribute("aria-labelledby") || "");
		const said = document.createElement("span");
		said.setAttribute("role", "status");
		button.addEventListener("click", async () => {
			try {
				await navigator.clipboard.writeText(block.textContent);
				said.textContent = " Copied";
			} catch {
				said.textContent = " Select the text and copy it by hand";
			}
		});
		block.after(button, said);
	}
}
