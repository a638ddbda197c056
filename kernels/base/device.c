/* device.c - opens a device by name; finds the CUDA module at run time. */
#include "kernels/base/device.h"
#include "kernels/base/log.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#define MODULE_FILE "libm2_cuda.so"

/* The module lies beside the program (build tree, $ORIGIN) or on the loader's path. It stays loaded for good: CUDA's
 * own libraries register exit handlers. */
static m2_status open_cuda(int index, int threads, m2_device **out)
{
    void *module = dlopen(MODULE_FILE, RTLD_NOW | RTLD_LOCAL);
    if (!module) {
        const char *why = dlerror(); // a module that is there may lack libraries of its own: that text stays
        if (!strncmp(why, MODULE_FILE ": cannot open", strlen(MODULE_FILE ": cannot open"))) why = "built without CUDA";
        return m2_fail(M2_USAGE, "no CUDA module (%s)", why);
    }
    union {
        void *object;
        m2_device_module_open function;
    } symbol = {.object = dlsym(module, M2_DEVICE_MODULE_SYMBOL)};
    if (!symbol.object) return m2_fail(M2_BUG, "%s does not export %s", MODULE_FILE, M2_DEVICE_MODULE_SYMBOL);
    return symbol.function(index, threads, out);
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
