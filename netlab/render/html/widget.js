
function mount({ model, el }) {
  let shown = null;
  const show = () => {
    if (shown) shown.destroy();
    const data = model.get("page");
    shown = data && Object.keys(data).length ? netlabPage.render(el, data, { keys: "element", onStep: (at) => { model.set("at", at); model.save_changes(); } }) : null;
  };
  model.on("change:page", show);
  show();
  return () => { if (shown) shown.destroy(); };
}

export default { render: mount };
