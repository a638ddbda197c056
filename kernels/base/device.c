/* device.c - opens a device by name; finds the CUDA module at run time. */
#include "kernels/base/device.h"
#include "kernels/base/log.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#define MODULE_FILE "libm2_cuda.so"

/* The module lies beside the program (build tree, $ORIGIN) or on the loader's path. It stays loaded for good: CUDA's
 * own libraries register exit handlers. */
typedef union module_symbol {
    void *object;
    m2_device_module_open open;
    m2_device_module_count count;
} module_symbol;

static m2_status find_symbol(const char *name, module_symbol *out)
{
    void *module = dlopen(MODULE_FILE, RTLD_NOW | RTLD_LOCAL);
    if (!module) {
        const char *why = dlerror(); // a module that is there may lack libraries of its own: that text stays
        if (!strncmp(why, MODULE_FILE ": cannot open", strlen(MODULE_FILE ": cannot open"))) why = "built without CUDA";
        return m2_fail(M2_USAGE, "no CUDA module (%s)", why);
    }
    out->object = dlsym(module, name);
    return out->object ? M2_OK : m2_fail(M2_BUG, "%s does not export %s", MODULE_FILE, name);
}

static m2_status open_cuda(int index, int threads, m2_device **out)
{
    module_symbol symbol;
    M2_TRY(find_symbol(M2_DEVICE_MODULE_SYMBOL, &symbol));
    return symbol.open(index, threads, out);
}

int m2_device_gpus(void)
{
    module_symbol symbol;
    return find_symbol(M2_DEVICE_MODULE_COUNT, &symbol) == M2_OK ? symbol.count() : 0;
}

m2_status m2_device_open(const char *spec, int threads, m2_device **out)
{
    *out = NULL;
    if (!strcmp(spec, "cpu")) return m2_device_open_cpu(threads, out);
    if (!strcmp(spec, "cuda")) return open_cuda(0, threads, out);
    if (!strncmp(spec, "cuda:", 5)) {
        char *end;
        long index = strtol(spec + 5, &end, 10);
        if (end != spec + 5 && !*end && index >= 0 && index < 1024) return open_cuda((int)index, threads, out);
    }
    if (strcmp(spec, "auto"))
        return m2_fail(M2_USAGE, "unknown device '%s': expected cpu, cuda, cuda:N or auto", spec);
    if (open_cuda(0, threads, out) == M2_OK) return M2_OK;
    m2_log_once(M2_LOG_INFO, "running on the CPU: %s", m2_message());
    return m2_device_open_cpu(threads, out);
}

void m2_device_close(m2_device **dev)
{
    if (*dev) (*dev)->api->close(*dev);
    *dev = NULL;
}
