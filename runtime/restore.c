#include "runtime/restore.h"

#include <stdio.h>
#include <string.h>

/* Where and how the run computed is no property of the model. */
static void forget_machine(m2_config *cfg)
{
    m2_config fresh;
    m2_config_defaults(&fresh);
    memcpy(cfg->run_device, fresh.run_device, sizeof cfg->run_device);
    memcpy(cfg->run_transport, fresh.run_transport, sizeof cfg->run_transport);
    memcpy(cfg->run_mesh, fresh.run_mesh, sizeof cfg->run_mesh);
    cfg->run_threads = fresh.run_threads;
    cfg->optim_zero = fresh.optim_zero;
    if (!strcmp(cfg->train_precision, "bf16") || !strcmp(cfg->train_precision, "tf32"))
        snprintf(cfg->train_precision, sizeof cfg->train_precision, "auto");
}

m2_status m2_restore(const char *path, int n, char **overrides, m2_restored *out)
{
    char folder[M2_PATH], origin[M2_PATH + 16];
    memset(out, 0, sizeof *out);
    M2_TRY(m2_checkpoint_find(path, folder, NULL));
    M2_TRY(m2_manifest_read(folder, &out->manifest));
    snprintf(origin, sizeof origin, "%s/manifest.h5", folder);
    m2_config_defaults(&out->cfg);
    M2_TRY(m2_config_parse_text(&out->cfg, out->manifest.config, origin));
    forget_machine(&out->cfg);
    for (int i = 0; i < n; i++) M2_TRY(m2_config_set(&out->cfg, overrides[i]));
    return M2_OK;
}

m2_status m2_restore_params(const m2_restored *m, const m2_ranks *ranks, m2_program *p)
{
    m2_state state;
    M2_TRY(m2_state_of(p, ranks->device, 0, &state));
    M2_TRY(m2_checkpoint_load(&m->manifest, &state));
    return m2_program_params_changed(p);
}

void m2_restored_free(m2_restored *m)
{
    m2_manifest_free(&m->manifest);
}
