"use strict";
const copy = document.getElementById("copy");
const token = document.getElementById("token");
if (navigator.clipboard) {
	copy.hidden = false;
	copy.addEventListener("click", async () => {
		await navigator.clipboard.writeText(token.value);
		document.getElementById("copied").textContent = "Copied";
	});
}
