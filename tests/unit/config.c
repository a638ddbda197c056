/* Configurations: values and their spellings, files over base files, every refusal's sentence, writing and reading back,
 * what a resumed run may change, help that fits, nearest names. */
#include "runtime/config.h"

#include <CUnit/Basic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static m2_config config(void)
{
    m2_config cfg;
    memset(&cfg, 0x55, sizeof cfg); /* defaults have to fill everything */
    m2_config_defaults(&cfg);
    return cfg;
}

static int says(const char *text)
{
    if (strstr(m2_message(), text)) return 1;
    printf("\n  expected: %s\n  message:  %s\n", text, m2_message());
    return 0;
}

static void test_values(void)
{
    m2_config cfg = config();
    CU_ASSERT_EQUAL(cfg.model_width, 256);
    CU_ASSERT_STRING_EQUAL(cfg.model_act, "gelu_tanh");
    CU_ASSERT_EQUAL(m2_config_set(&cfg, "optim.lr=5e-4"), M2_OK);
    CU_ASSERT_DOUBLE_EQUAL(cfg.optim_lr, 5e-4, 0);
    CU_ASSERT_EQUAL(m2_config_set(&cfg, "train.seed=9223372036854775807"), M2_OK);
    CU_ASSERT_EQUAL(cfg.train_seed, INT64_MAX);
    CU_ASSERT_EQUAL(m2_config_set(&cfg, "run.dir=runs/a=b"), M2_OK); /* only the first = separates */
    CU_ASSERT_STRING_EQUAL(cfg.run_dir, "runs/a=b");
    CU_ASSERT_EQUAL(m2_config_set(&cfg, "run.dir="), M2_OK);
    CU_ASSERT_STRING_EQUAL(cfg.run_dir, "");
    static const char *const yes[] = {"true", "yes", "on", "1"}, *const no[] = {"false", "no", "off", "0"};
    for (int i = 0; i < 4; i++) {
        char text[64];
        snprintf(text, sizeof text, "run.strict=%s", yes[i]);
        CU_ASSERT_EQUAL(m2_config_set(&cfg, text), M2_OK);
        CU_ASSERT_EQUAL(cfg.run_strict, 1);
        snprintf(text, sizeof text, "run.strict=%s", no[i]);
        CU_ASSERT_EQUAL(m2_config_set(&cfg, text), M2_OK);
        CU_ASSERT_EQUAL(cfg.run_strict, 0);
    }
}

static void test_yaml(void)
{
    static const char text[] = "# comment\n"
                               "model:\n"
                               "  width: 384   # channels\n"
                               "  filter: {width: 32, layers: 1}\n"
                               "  filter.emb: 9\n"
                               "optim.lr: 0.001\n"
                               "data:\n"
                               "  train: \"a b.h5\"\n"
                               "  val: ~\n";
    m2_config cfg = config();
    CU_ASSERT_EQUAL(m2_config_parse_text(&cfg, text, "text"), M2_OK);
    CU_ASSERT_EQUAL(cfg.model_width, 384);
    CU_ASSERT_EQUAL(cfg.model_filter_width, 32);
    CU_ASSERT_EQUAL(cfg.model_filter_layers, 1);
    CU_ASSERT_EQUAL(cfg.model_filter_emb, 9);
    CU_ASSERT_DOUBLE_EQUAL(cfg.optim_lr, 0.001, 0);
    CU_ASSERT_STRING_EQUAL(cfg.data_train, "a b.h5");
    CU_ASSERT_STRING_EQUAL(cfg.data_val, "");
    CU_ASSERT_EQUAL(m2_config_parse_text(&cfg, "", "empty"), M2_OK);
    CU_ASSERT_EQUAL(m2_config_parse_text(&cfg, "# nothing but this\n", "comment"), M2_OK);
    CU_ASSERT_EQUAL(cfg.model_width, 384);
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */
static void test_wrong_values(void)
{
    static const struct {
        const char *set, *message;
    } rows[] = {
        {"model.width", "'model.width' is not KEY=VALUE, such as optim.lr=3e-4"},
        {"=3", "'=3' is not KEY=VALUE"},
        {"model.widht=256", "unknown option 'model.widht'; did you mean 'model.width'?"},
        {"lr=1", "unknown option 'lr'; did you mean 'optim.lr'?"},
        {"precison=f32", "unknown option 'precison'; did you mean 'train.precision'?"},
        {"nothing.like.it.at.all=1",
         "unknown option 'nothing.like.it.at.all'; m2 help options lists them all"},
        {"model.width=wide", "model.width = 'wide': expected a whole number from 8 to 65536 (channels d)"},
        {"model.width=12.5", "model.width = '12.5': expected a whole number"},
        {"model.width=1M", "model.width = '1M': expected a whole number"},
        {"model.width=", "model.width = '': expected a whole number"},
        {"model.width=7", "model.width = '7': expected a whole number from 8 to 65536"},
        {"model.width=65537", "expected a whole number from 8 to 65536"},
        {"model.width=99999999999999999999", "expected a whole number from 8 to 65536"},
        {"optim.lr=fast", "optim.lr = 'fast': expected a number from 0 to 10 (peak learning rate)"},
        {"optim.lr=-1", "expected a number from 0 to 10"},
        {"optim.lr=nan", "expected a number from 0 to 10"},
        {"optim.lr=1e400", "expected a number from 0 to 10"},
        {"optim.lr=0x1", "expected a number from 0 to 10"},
        {"run.strict=maybe", "run.strict = 'maybe': expected true or false"},
        {"model.mlp=dens", "model.mlp = 'dens': expected one of none|dense|blockdiag|blockdiag_glu"},
        {"model.mlp=none|dense", "expected one of none|dense"},
        {"model.mlp=", "expected one of none|dense"},
        {"run.dir=a\nb", "expected UTF-8 text of at most 255 bytes without control characters"},
        {"run.dir=\xff", "expected UTF-8 text"},
        {"run.dir=\xc3", "expected UTF-8 text"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        m2_config cfg = config(), before = cfg;
        CU_ASSERT_EQUAL(m2_config_set(&cfg, rows[i].set), M2_USAGE);
        CU_ASSERT(says(rows[i].message));
        CU_ASSERT_EQUAL(memcmp(&cfg, &before, sizeof cfg), 0); /* nothing was changed */
    }
    char path[300];
    m2_config cfg = config();
    memset(path, 'x', sizeof path);
    memcpy(path, "run.dir=", 8);
    path[8 + 255] = 0;
    CU_ASSERT_EQUAL(m2_config_set(&cfg, path), M2_OK);
    path[8 + 255] = 'x', path[8 + 256] = 0;
    CU_ASSERT_EQUAL(m2_config_set(&cfg, path), M2_USAGE);
    CU_ASSERT(says("at most 255 bytes"));
}

static void test_wrong_yaml(void)
{
    static const struct {
        const char *text, *message;
    } rows[] = {
        {"model:\n  widht: 1\n", "conf:2: unknown option 'model.widht'; did you mean 'model.width'?"},
        {"model:\n  width: 1\n", "conf:2: model.width = '1': expected a whole number from 8 to 65536"},
        {"modle:\n  width: 64\n", "conf:2: unknown option 'modle"},
        {"model: 3\n", "conf:1: 'model' is a section; expected options below it"},
        {"model:\n  filter: 3\n", "conf:2: 'model.filter' is a section; expected options below it"},
        {"model:\n  width: {a: 1}\n",
         "conf:2: model.width: expected one value, not a list, a map or a reference"},
        {"model:\n  width: [1, 2]\n", "conf:2: model.width: expected one value"},
        {"model: [1]\n", "conf:1: model: expected one value"},
        {"a: &x 1\n", "conf:1: unknown option 'a'"},
        {"model:\n  width: 64\n  layers: 2\n  width: 128\n", "conf:4: model.width is already set in line 2"},
        {"model:\n  width: 64\nmodel.width: 128\n", "conf:3: model.width is already set in line 2"},
        {"model:\n  width: 64\n\tlayers: 2\n", "conf:3: not YAML: "},
        {"model: {width: 64\n", "conf:2: not YAML: "},
        {"model:\n  ? [a]\n  : 3\n", "conf:2: expected the name of an option, such as optim.lr"},
        {"just words\n", "conf:1: expected options, such as 'model:' with 'width: 256' below it"},
        {"- 1\n", "conf:1: expected options"},
        {"model: {width: 64}\n---\nmodel: {width: 64}\n", "expected one YAML document, here a second begins"},
        {"base: x.yaml\n", "conf:1: 'base' is for files"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        m2_config cfg = config();
        CU_ASSERT_EQUAL(m2_config_parse_text(&cfg, rows[i].text, "conf"), M2_USAGE);
        CU_ASSERT(says(rows[i].message));
    }
}

/* ---- files ------------------------------------------------------------------------------------------------------- */
static char folder[] = "/tmp/m2-config-XXXXXX";

static const char *put(const char *name, const char *text)
{
    static char path[8][128];
    static int turn;
    char *p = path[turn++ % 8];
    snprintf(p, 128, "%s/%s", folder, name);
    FILE *f = fopen(p, "w");
    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    fputs(text, f);
    fclose(f);
    return p;
}

static void test_base(void)
{
    m2_config cfg = config();
    put("bottom.yaml", "model: {width: 64, layers: 3}\noptim: {lr: 0.1}\n");
    put("middle.yaml", "base: bottom.yaml\nmodel: {width: 128}\n");
    const char *top = put("top.yaml", "base: middle.yaml\nmodel: {length: 77}\n");
    CU_ASSERT_EQUAL(m2_config_load(&cfg, top), M2_OK);
    CU_ASSERT_EQUAL(cfg.model_width, 128);
    CU_ASSERT_EQUAL(cfg.model_layers, 3);
    CU_ASSERT_EQUAL(cfg.model_length, 77);
    CU_ASSERT_DOUBLE_EQUAL(cfg.optim_lr, 0.1, 0);

    CU_ASSERT_EQUAL(m2_config_load(&cfg, put("self.yaml", "base: self.yaml\n")), M2_USAGE);
    CU_ASSERT(says("does a file name itself?"));
    CU_ASSERT_EQUAL(m2_config_load(&cfg, put("late.yaml", "model: {width: 64}\nbase: bottom.yaml\n")),
                    M2_USAGE);
    CU_ASSERT(says("late.yaml:2: 'base' comes before all options, which change it"));
    CU_ASSERT_EQUAL(m2_config_load(&cfg, put("lost.yaml", "base: nowhere.yaml\n")), M2_USAGE);
    CU_ASSERT(says("lost.yaml:1: cannot read configuration"));
    CU_ASSERT(says("nowhere.yaml: No such file or directory"));
    put("bad.yaml", "model: {widht: 64}\n");
    CU_ASSERT_EQUAL(m2_config_load(&cfg, put("over.yaml", "base: bad.yaml\n")), M2_USAGE);
    CU_ASSERT(says("over.yaml:1: "));
    CU_ASSERT(says("bad.yaml:1: unknown option 'model.widht'"));
    CU_ASSERT_EQUAL(m2_config_load(&cfg, "nowhere.yaml"), M2_USAGE);
    CU_ASSERT(says("cannot read configuration nowhere.yaml: No such file or directory"));
}

/* Every option away from its default, with awkward text and numbers. */
static void test_written(void)
{
    static const char *const sets[] = {"optim.lr=0.1",
                                       "optim.eps=1.2345678901234567e-9",
                                       "optim.warmup=123456.7",
                                       "model.width=512",
                                       "run.dir=a \\ \"b\": #c 'd' \xc3\xa9",
                                       "run.strict=on",
                                       "model.mlp=dense",
                                       "data.train=true",
                                       "data.val=~",
                                       "data.tokenizer= x "};
    m2_config cfg = config(), back = config();
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
        CU_ASSERT_EQUAL(m2_config_set(&cfg, sets[i]), M2_OK);
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    m2_config_write(&cfg, out);
    fclose(out);
    CU_ASSERT_EQUAL(m2_config_parse_text(&back, text, "written"), M2_OK);
    CU_ASSERT_EQUAL(memcmp(&cfg, &back, sizeof cfg), 0);
    if (memcmp(&cfg, &back, sizeof cfg) != 0) printf("%s\n%s", m2_message(), text);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "\noptim:\n  lr: 0.1\n"));
    free(text);
}

static void test_resume(void)
{
    m2_config saved = config(), now = saved;
    CU_ASSERT_EQUAL(m2_config_set(&now, "train.steps=77"), M2_OK);
    CU_ASSERT_EQUAL(m2_config_set(&now, "run.dir=elsewhere"), M2_OK);
    CU_ASSERT_EQUAL(m2_config_check_resume(&saved, &now), M2_OK);
    CU_ASSERT_EQUAL(m2_config_set(&now, "model.layers=7"), M2_OK);
    CU_ASSERT_EQUAL(m2_config_check_resume(&saved, &now), M2_USAGE);
    CU_ASSERT(says("model.layers is '7' but the run was started with '6'"));
}

static void test_help(void)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    CU_ASSERT_EQUAL(m2_config_help(out, ""), M2_OK);
    fclose(out);
    int options = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        CU_ASSERT(strlen(line) <= 100);
        CU_ASSERT(line[strlen(line) - 1] != ' ');
        options += strchr("* ", line[0]) && line[1] == ' ' && line[2] != ' ';
    }
    int known = 0;
#define INT(f, key, d, lo, hi, r, help)  known++;
#define REAL(f, key, d, lo, hi, r, help) known++;
#define BOOL(f, key, d, r, help)         known++;
#define STR(f, key, d, c, r, help)       known++;
#include "runtime/options.def"
    CU_ASSERT_EQUAL(options, known + 2); /* with the title and the footnote */
    free(text);
    out = open_memstream(&text, &size);
    CU_ASSERT_EQUAL(m2_config_help(out, "optin"), M2_USAGE);
    fclose(out);
    free(text);
}

static void test_nearest(void)
{
    static const char *const names[] = {"train", "eval", "sample", "prepare"};
    CU_ASSERT_STRING_EQUAL(m2_nearest_name("trian", names, 4), "train");
    CU_ASSERT_STRING_EQUAL(m2_nearest_name("sampel", names, 4), "sample");
    CU_ASSERT_STRING_EQUAL(m2_nearest_name("prepair", names, 4), "prepare");
    CU_ASSERT_PTR_NULL(m2_nearest_name("convert", names, 4));
    CU_ASSERT_PTR_NULL(m2_nearest_name("x", names, 4));
    CU_ASSERT_PTR_NULL(m2_nearest_name("", names, 4));
    char longest[300];
    memset(longest, 'a', sizeof longest);
    longest[299] = 0;
    CU_ASSERT_PTR_NULL(m2_nearest_name(longest, names, 4));
}

int main(void)
{
    if (!mkdtemp(folder) || CU_initialize_registry() != CUE_SUCCESS) return 1;
    CU_pSuite suite = CU_add_suite("config", NULL, NULL);
    CU_add_test(suite, "values", test_values);
    CU_add_test(suite, "yaml", test_yaml);
    CU_add_test(suite, "wrong values", test_wrong_values);
    CU_add_test(suite, "wrong yaml", test_wrong_yaml);
    CU_add_test(suite, "base files", test_base);
    CU_add_test(suite, "written and read back", test_written);
    CU_add_test(suite, "resume", test_resume);
    CU_add_test(suite, "help", test_help);
    CU_add_test(suite, "nearest names", test_nearest);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    static const char *const files[] = {"bottom", "middle", "top", "self", "late", "lost", "bad", "over"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s.yaml", folder, files[i]);
        unlink(path);
    }
    rmdir(folder);
    return failures != 0;
}
